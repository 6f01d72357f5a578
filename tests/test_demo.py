# SPDX-License-Identifier: Apache-2.0
"""The demo, as a command and as a notebook, with the embedded model."""

import json
import os
import re
from pathlib import Path

import pytest

from helpers.paths import ROOT
from recipe.treepo import demo
from recipe.treepo.dumps.reader import Dump

NOTEBOOK = ROOT / "examples/demo.ipynb"


def test_the_demo_prints_a_scored_tree_and_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([f"--out={tmp_path}", "--n=4"]) == 0
    printed = capsys.readouterr().out
    dump = Dump(tmp_path)
    dump.refresh()
    (entry,) = dump.trees()
    tree = dump.load(entry)
    rewards = [trajectory["reward"] for trajectory in tree["trajectories"]]
    assert len(rewards) == 4
    assert f"{rewards.count(1.0)} of 4 trajectories are right." in printed
    assert "Mia has 4 boxes" in printed and "reward" in printed
    # Credit: the value of each node minus that of its parent, so the first levels below the root add up to 0.
    assert all(trajectory["advantages"] is not None for trajectory in tree["trajectories"])
    page = (tmp_path / "tree.html").read_text()
    assert "Mia has 4 boxes" in page and "22" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n=0"], "--n=0: must be at least 1. Use --n=8."),
        (["--problem=What is 1 + 1?"], "--problem and --answer go together"),
        (["--answer=22"], "--problem and --answer go together"),
    ],
)
def test_bad_arguments_end_the_demo_with_one_line(words: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit):
        demo.main(words)
    assert message in capsys.readouterr().err


def test_a_problem_may_have_the_answer_of_the_embedded_one() -> None:
    chosen = demo.arguments(["--problem=What is 20 + 2?", f"--answer={demo.ANSWER}"])
    assert (chosen.problem, chosen.answer) == ("What is 20 + 2?", "22")
    assert demo.arguments([]).problem == demo.PROBLEM


def test_a_model_that_cannot_be_loaded_ends_the_demo_with_one_line(tmp_path: Path, capsys) -> None:
    assert demo.main([f"--model={tmp_path}/none", f"--out={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: --model=.*/none: cannot be loaded \(.*\)\. Name another model\.\n", error)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREEPO_ROOT", os.fspath(ROOT))
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)  # our own file
    assert len(names["tree"].leaves) == 8
    assert names["Page"]()._repr_html_().startswith("<iframe")
    texts = [names["tree"].path(leaf).text for leaf in names["tree"].leaves]
    assert names["rewards"] == [float(r"\boxed{22}" in text) for text in texts]
