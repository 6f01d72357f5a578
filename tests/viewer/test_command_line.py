# SPDX-License-Identifier: Apache-2.0
"""The viewer's command: its outputs, and one sentence for bad input."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from helpers.dumped_trees import origin, rich_tree, write_tree
from helpers.paths import ROOT
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.viewer.__main__ import main
from recipe.treepo.viewer.selection import select


def run(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "recipe.treepo.viewer", *map(str, words)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60, **more},
    )


def test_help_takes_a_moment_and_no_heavy_package(folder):
    code = """
import sys
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.viewer.__main__ import main
from recipe.treepo.viewer.selection import select
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted({"jinja2", "rich", "PIL", "torch", "verl", "numpy", "ray"} & set(sys.modules)))
main([sys.argv[1], "--html", sys.argv[2]])
print(sorted({"rich", "PIL", "torch", "verl", "numpy", "ray"} & set(sys.modules)))
"""
    words = [sys.executable, "-c", code, folder, folder.parent / "html"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "usage: python -m recipe.treepo.viewer" in done.stdout
    assert done.stdout.count("[]\n") == 2, done.stdout


def test_pages_as_files(folder, tmp_path, capsys):
    assert main([str(folder), "--html", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"6 trees: {tmp_path}/out/index.html\n"
    assert len(list((tmp_path / "out").glob("*.html"))) == 7
    one = tmp_path / "deep/one.html"
    assert main([str(folder), "--step", "10", "--uid", "train-10-0", "--html", str(one)]) == 0
    assert b"train step 10, prompt 0: 8 trajectories" in one.read_bytes()


def test_a_picture_of_one_tree_as_a_file(folder, tmp_path, capsys):
    picture = tmp_path / "deep/tree.svg"
    assert main([str(folder), "--step", "10", "--uid", "train-10-0", "--svg", str(picture)]) == 0
    assert capsys.readouterr().out == f"1 tree: {picture}\n"
    root = ElementTree.fromstring(picture.read_bytes())
    dump = Dump(folder)
    dump.refresh()
    [entry] = select(dump, step=10, uid="train-10-0")
    drawn = {int(group.get("data-node")) for group in root.iter() if group.get("data-node") is not None}
    assert drawn == {node["index"] for node in dump.load(entry)["nodes"]}
    assert main([str(folder), "--svg", str(picture)]) == 2
    assert f"--svg={picture}: one file holds one tree, but 6 are selected." in (said := capsys.readouterr().err)
    assert "for example --step 0 --uid 'amc paper_best-0-3' or --step 10 --uid train-10-0." in said


def test_a_trace_as_a_file(folder, tmp_path, capsys):
    assert main([str(folder), "--step", "10", "--trace", str(tmp_path / "trace.json")]) == 0
    count = sum(event["ph"] == "X" for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"])
    assert capsys.readouterr().out.startswith(f"{count} requests: ")


def test_trees_in_a_terminal(folder, tmp_path):
    done = run(folder, "--step", 10, "--uid", "train-10-0", "--text", env={"COLUMNS": "110", "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "train-10-0  train step 10, prompt 0: 8 trajectories, mean reward 0.5, 1.61x shared"
    assert all(len(line) <= 110 for line in lines)
    (fallback,) = [line for line in lines if " 0.1.0~0 " in line]
    assert "32 tok  fallback  reward 0  adv -0.08  ✗ 0 · answer  | " in fallback
    (chain,) = [line for line in lines if " 0.0 +1 below " in line]
    assert "85 tok  reward 0  adv -0.02  ✗ 0 · answer" in chain
    assert [line.split()[1] for line in lines[2:]][-1] in ("1.3", "0.0^0") and "open: no trajectory" in lines[-1]


def test_hostile_texts_in_a_terminal(tmp_path, words):
    texts = ["\x1b[2J", "[red]", "\u202e", "\ud800", "\0", "\r", "\n"]

    def decode(ids):
        return "".join(texts[token % len(texts)] for token in ids)

    write_tree(tmp_path, rich_tree(words), origin(0, prompt="\x1b]0;x\x07[/]", uid="[bold]\x1b"), decode)
    done = run(tmp_path, "--text", env={"COLUMNS": "200", "PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    assert not any(character in done.stdout for character in "\x1b\x07\0\r\u202e")
    assert "[red]" in done.stdout and "␛[2J" in done.stdout
    done = run(tmp_path, "--text", env={"COLUMNS": "200", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["missing"], "missing: there is no such folder"),
        (["{dump}", "--step", "3"], "--step=3: must be a step of the dump. It has 0, 10, 20."),
        (
            ["{dump}", "--step", "10", "--uid", "val"],
            "--uid=val: must be the id of a prompt or a prefix of it. One id is",
        ),
        (["{dump}", "--uid", "val", "--step", "20", "--port", "70000"], "--port=70000: must be 0 to 65535."),
        (["{dump}", "--html", "one.html"], "--html=one.html: one file holds one tree, but 6 are selected. Choose one"),
        (["{dump}", "--html", "{file}"], "must be a folder or end in .html. Choose another name."),
        (["{dump}", "--trace", "{file}/x"], "Not a directory. Check the name and the permissions."),
        (["{empty}", "--text"], "must hold trees. First sample with treepo.dump.dir set to it."),
        (["{file}"], "there is no such folder"),
    ],
)
def test_bad_input_gets_one_sentence(folder, tmp_path, capsys, line, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    places = {"dump": folder, "empty": tmp_path / "empty", "file": tmp_path / "file"}
    assert main([word.format(**places) for word in line]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and output.err.count("\n") == 1
    assert message in output.err


def test_unknown_words_and_two_outputs_are_refused(folder):
    for words in (["--texts"], ["--text", "--html", "x"], ["--step", "one"]):
        done = run(folder, *words)
        assert done.returncode == 2 and "usage:" in done.stderr
