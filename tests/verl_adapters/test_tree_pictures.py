# SPDX-License-Identifier: Apache-2.0
"""Trees logged to TensorBoard and W&B, their form, and the effect of a failure."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.scripted_engine import ScriptedEngine
from helpers.searches import grow
from recipe.treepo.dumps.lines import TreeOrigin, step_folder, tree_line
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.dumps.writer import DumpWriter
from recipe.treepo.settings.schema import DumpSettings
from recipe.treepo.verl_adapters.tree_pictures import TreePictures, newest_trees


def write(folder: Path, uid: str, *, step: int, split: str, rewards: list[float]) -> None:
    tree = grow(ScriptedEngine(seed=step), width=2, depth=2, segment_length=4, response_length=8)
    origin = TreeOrigin(
        uid=uid,
        step=step,
        split=split,
        number=0,
        data_source="sums",
        row=None,
        prompt="1 + 1",
        ground_truth="2",
        settings={},
    )
    rows = [{"reward": reward} for reward in rewards]
    made = DumpWriter(folder, "worker").append(
        step_folder(split, step), *tree_line(tree, origin, rows, lambda ids: "x" * len(ids))
    )
    assert made


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "old", step=10, split="val", rewards=[0.0, 1.0])
    write(tmp_path, "same", step=20, split="train", rewards=[1.0, 1.0])
    write(tmp_path, "mixed", step=20, split="train", rewards=[0.0, 1.0])
    return tmp_path


def uids(folder: Path, count: int) -> list[str]:
    dump = Dump(folder)
    dump.refresh()
    return [entry.uid for entry in newest_trees(dump.trees(), count)]


def test_the_newest_step_is_shown_its_validation_first_and_mixed_outcomes_before_others(folder):
    assert uids(folder, 2) == ["mixed", "same"]
    assert uids(folder, 1) == ["mixed"]
    write(folder, "validated", step=20, split="val", rewards=[1.0, 1.0])
    assert uids(folder, 2) == ["validated"]
    assert newest_trees([], 2) == []


class Writer:
    def __init__(self) -> None:
        self.images: list[Any] = []

    def add_image(self, name: str, image: np.ndarray, step: int, dataformats: str) -> None:
        self.images.append((name, image.shape, image.dtype, step, dataformats))


def test_tensorboard_gets_images_with_three_colors(folder):
    writer = Writer()
    tracking: Any = SimpleNamespace(logger={"tensorboard": SimpleNamespace(writer=writer), "console": None})
    TreePictures(DumpSettings(dir=str(folder))).log(tracking, 20)
    assert [(name, shape[2], dtype, step, form) for name, shape, dtype, step, form in writer.images] == [
        ("tree/0", 3, np.uint8, 20, "HWC"),
        ("tree/1", 3, np.uint8, 20, "HWC"),
    ]


def test_wandb_gets_pages_with_the_picture(folder, tmp_path, monkeypatch):
    """W&B runs offline; the files of its run contain one page per tree."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="trees", dir=str(tmp_path))
    try:
        tracking: Any = SimpleNamespace(logger={"wandb": wandb})
        TreePictures(DumpSettings(dir=str(folder))).log(tracking, 20)
        files = sorted(Path(run.dir).glob("media/html/tree/*.html"))
        assert [file.name.split("_")[0] for file in files] == ["0", "1"]
        assert all("<svg" in file.read_text() for file in files)
    finally:
        wandb.finish()


@pytest.mark.parametrize("settings", [{"dir": None}, {"pictures": 0}])
def test_no_picture_is_drawn_by_default(folder, settings):
    tracking: Any = SimpleNamespace(logger={"tensorboard": None})
    TreePictures(DumpSettings(**{"dir": str(folder), **settings})).log(tracking, 20)


def test_a_failure_is_warned_about_once(folder, caplog):
    tracking: Any = SimpleNamespace(logger={"tensorboard": None})  # no writer
    pictures = TreePictures(DumpSettings(dir=str(folder)))
    for _ in range(2):
        pictures.log(tracking, 20)
    assert caplog.text.count("cannot draw pictures") == 1


def test_a_folder_without_trees_yet_is_not_a_failure(tmp_path, caplog):
    tracking: Any = SimpleNamespace(logger={"tensorboard": None})
    TreePictures(DumpSettings(dir=str(tmp_path / "later"))).log(tracking, 0)
    assert caplog.text == ""
