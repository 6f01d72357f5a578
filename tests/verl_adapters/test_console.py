# SPDX-License-Identifier: Apache-2.0
"""Console of a run with fake training: files, loggers, final report, and restored output."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.verl_adapters.console import train_with_console
from recipe.treepo.verl_adapters.console_files import RayLogs, open_logs, run_folder, use_file_logger
from recipe.treepo.verl_adapters.console_notes import (
    evaluation_overrides,
    last_checkpoint,
    results,
    resume,
    short,
    title,
)

VARIABLES = "ray_kwargs.ray_init.runtime_env.env_vars"


def config_of(folder: Path, **trainer: object) -> DictConfig:
    """Return a configuration with the keys that the console reads."""
    return OmegaConf.create(
        {
            "trainer": {
                "default_local_dir": str(folder / "checkpoints"),
                "logger": ["console", "tensorboard"],
                "project_name": "treepo",
                "experiment_name": "first",
                "val_before_train": False,
                "test_freq": -1,
                "save_freq": 10,
                "total_training_steps": 2,
                **trainer,
            },
            "actor_rollout_ref": {
                "model": {"path": "org/model"},
                "actor": {"strategy": "fsdp2", "checkpoint": {"save_contents": ["model"]}},
                "rollout": {
                    "n": 8,
                    "agent": {"default_agent_loop": "single_turn_agent"},
                    "val_kwargs": {"temperature": 1},
                },
            },
            "algorithm": {"adv_estimator": "treepo"},
            "data": {"max_response_length": 128, "train_batch_size": 16},
            "ray_kwargs": {"ray_init": {"num_cpus": None}},
            "treepo": {},
        }
    )


# --- files -----------------------------------------------------------------------------------------------------


def test_the_folder_of_a_run_is_that_of_its_checkpoints_or_the_one_around_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder(config_of(tmp_path / "run")) == tmp_path / "run"
    assert (
        run_folder(config_of(tmp_path, default_local_dir="checkpoints/treepo/x")) == tmp_path / "checkpoints/treepo/x"
    )


def test_the_files_of_earlier_starts_are_kept(tmp_path):
    for start in (1, 2, 3):
        logs = open_logs(tmp_path)
        (logs / "console.log").write_text(str(start))
        (logs / "metrics.jsonl").touch()
        (logs / "ray").symlink_to(tmp_path / "gone")
        (logs / "mine.txt").touch()
    assert [(tmp_path / f"logs/start_{start}/console.log").read_text() for start in (1, 2)] == ["1", "2"]
    assert (tmp_path / "logs/console.log").read_text() == "3"
    assert sorted(os.listdir(logs)) == ["console.log", "metrics.jsonl", "mine.txt", "ray", "start_1", "start_2"]


@pytest.mark.parametrize(
    ("chosen", "loggers"),
    [
        (["console", "wandb"], ["wandb", "file"]),
        ("console", ["file"]),
        (None, ["file"]),
        (["wandb"], ["wandb", "file"]),
    ],
)
def test_verls_logger_file_takes_the_place_of_its_console(tmp_path, chosen, loggers):
    config = config_of(tmp_path, logger=chosen)
    assert use_file_logger(config, tmp_path, {}) == tmp_path / "metrics.jsonl"
    assert config.trainer.logger == loggers
    assert OmegaConf.select(config, VARIABLES) == {"VERL_FILE_LOGGER_PATH": str(tmp_path / "metrics.jsonl")}


def test_a_file_that_the_user_logs_to_is_read_and_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path, logger=["console", "file"])
    assert use_file_logger(config, tmp_path / "logs", {}) == tmp_path / "treepo/first.jsonl"
    assert (config.trainer.logger, OmegaConf.select(config, VARIABLES)) == (["file"], None)
    assert use_file_logger(config, tmp_path, {"VERL_FILE_LOGGER_ROOT": "/r"}) == Path("/r/treepo/first.jsonl")
    assert use_file_logger(config, tmp_path, {"VERL_FILE_LOGGER_PATH": "/p"}) == Path("/p")
    OmegaConf.update(config, f"{VARIABLES}.VERL_FILE_LOGGER_PATH", "/q", force_add=True)
    assert use_file_logger(config, tmp_path, {"VERL_FILE_LOGGER_PATH": "/p"}) == Path("/q")


def test_on_a_cluster_verl_makes_the_folder_where_its_trainer_runs(tmp_path):
    config = config_of(tmp_path)
    assert use_file_logger(config, tmp_path, {"RAY_ADDRESS": "auto"}) == tmp_path / "treepo/first.jsonl"
    assert OmegaConf.select(config, VARIABLES) == {"VERL_FILE_LOGGER_ROOT": str(tmp_path)}


class FakeRay:
    """Stand-in for Ray that a test starts and stops."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, session: Path, *, head: bool = True) -> None:
        self._node = SimpleNamespace(get_logs_dir_path=lambda: str(session), is_head=lambda: head)
        self._monkeypatch = monkeypatch
        self.stop()
        monkeypatch.setattr(ray, "is_initialized", lambda: self.running)
        monkeypatch.setattr(ray, "shutdown", self.stop)
        monkeypatch.setattr("recipe.treepo.verl_adapters.console_files.LAST_LINES", 0)

    def start(self) -> None:
        self.running = True
        self._monkeypatch.setattr(ray._private.worker, "_global_node", self._node)

    def stop(self) -> None:
        self.running = False
        self._monkeypatch.setattr(ray._private.worker, "_global_node", None)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    folder = tmp_path / "session"
    (folder / "events").mkdir(parents=True)
    (folder / "worker.out").write_text("w")
    return folder


def test_rays_logs_are_linked_during_the_run_and_copied_after_it(tmp_path, session, monkeypatch):
    fake, logs = FakeRay(monkeypatch, session), RayLogs(tmp_path)
    logs.link()
    assert not os.path.lexists(tmp_path / "ray")
    fake.start()
    logs.link()
    logs.link()
    assert (tmp_path / "ray").readlink() == session
    logs.close()
    assert not fake.running and not (tmp_path / "ray").is_symlink()
    assert (tmp_path / "ray/worker.out").read_text() == "w"
    assert sorted(os.listdir(tmp_path)) == ["ray", "session"]


@pytest.mark.parametrize(("head", "running"), [(False, False), (True, True)])
def test_a_ray_that_the_run_has_not_started_goes_on(tmp_path, session, monkeypatch, head, running):
    fake = FakeRay(monkeypatch, session, head=head)
    if running:
        fake.start()
    logs = RayLogs(tmp_path)
    fake.start()
    logs.close()
    assert fake.running and (tmp_path / "ray").is_symlink()


# --- notes -----------------------------------------------------------------------------------------------------


def test_the_next_commands_name_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path / "run")
    assert results(config, {})[0] == ("checkpoint", "none (trainer.save_freq=10)")
    assert last_checkpoint(config) == (0, None) and resume(config)[1].startswith("no checkpoint yet")
    for step in (5, 20, 30):
        (tmp_path / f"run/checkpoints/global_step_{step}/actor").mkdir(parents=True)
    tracker = tmp_path / "run/checkpoints/latest_checkpointed_iteration.txt"
    for text in ("", "40"):  # cut off, and of a checkpoint that was deleted
        tracker.write_text(text)
        assert last_checkpoint(config) == (0, None)
    tracker.write_text("20")  # step 30 was not saved completely
    notes = dict(results(config, {"TENSORBOARD_DIR": str(tmp_path / "run/tensor board")}))
    assert notes["checkpoint"] == "run/checkpoints/global_step_20"
    assert notes["export"].partition(" -m ")[2] == "recipe.treepo.main_export run"
    assert notes["evaluate"].partition(" -m ")[2] == (
        f"recipe.treepo.main_eval actor_rollout_ref.model.path={tmp_path}/run/model_step_20 "
        f"evaluation.out_dir={tmp_path}/run/evaluation"
    )
    assert notes["curves"].endswith("tensorboard --logdir 'run/tensor board'") and "trees" not in notes
    assert f"trainer.default_local_dir={tmp_path}/run/checkpoints continues after step 20" in resume(config)[1]


def test_trees_curves_and_export_depend_on_the_configuration(tmp_path):
    config = config_of(tmp_path, logger=["wandb", "file"])
    (tmp_path / "checkpoints/global_step_1/actor").mkdir(parents=True)
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("1")
    config.actor_rollout_ref.actor.checkpoint.save_contents = ["model", "hf_model"]
    config.treepo.dump = {"dir": str(tmp_path / "trees")}
    notes = dict(results(config, {}))
    assert notes["curves"] == "treepo/first in wandb"
    assert notes["trees"].endswith(f" -m recipe.treepo.viewer {tmp_path}/trees")
    assert (
        "export" not in notes
        and f"model.path={tmp_path}/checkpoints/global_step_1/actor/huggingface" in notes["evaluate"]
    )


def test_an_evaluation_has_the_overrides_that_decide_about_it():
    kept = ["platform=cpu", "preset=tiny", "data.val_files=v", "treepo.depth=3", "+reward.x=1"]
    left = ["data.train_files=t", "trainer.save_freq=1", "treepo.console=treepo", "actor_rollout_ref.actor.optim.lr=1"]
    assert evaluation_overrides([*left, *kept]) == kept


def test_paths_are_short_and_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (short(Path("a/b")), short(tmp_path / "a b"), short(Path("/x"))) == ("a/b", "'a b'", "/x")


# --- whole runs ------------------------------------------------------------------------------------------------


def run(
    folder: Path, train: Callable[[DictConfig], None], monkeypatch: pytest.MonkeyPatch, **options: object
) -> tuple[int, DictConfig]:
    """Train with the console; Ray never starts."""
    FakeRay(monkeypatch, folder)
    config = config_of(folder)
    return train_with_console(config, TreePOSettings(), lambda: train(config), **options), config


def log_steps(config: DictConfig) -> None:
    path = OmegaConf.select(config, f"{VARIABLES}.VERL_FILE_LOGGER_PATH")
    metrics = {"timing_s/step": 2.0, "critic/score/mean": 0.5}
    Path(path).write_text("".join(json.dumps({"step": step, "data": metrics}) + "\n" for step in (1, 2)))


def test_a_run_shows_its_steps_and_the_log_has_the_rest(tmp_path, monkeypatch, capfd):
    def train(config: DictConfig) -> None:
        os.write(1, b"noise\n")
        os.write(2, b"a.py:1: UserWarning: x\n")
        log_steps(config)

    early = tmp_path / "early"
    early.write_text("before\n")
    status, _ = run(tmp_path, train, monkeypatch, early=early)
    shown = capfd.readouterr()
    lines = shown.out.splitlines()
    assert (status, shown.err, early.exists()) == (0, "", False)
    assert lines[0] == "treepo  org/model  tree sampler, treepo advantages, n 8, depth 7 x 19, 2 steps of 16 prompts"
    assert lines[1] == f"logs: {tmp_path}/logs"
    assert [line.split() for line in lines[4:7]] == [
        ["step", "time", "reward"],
        ["1", "2.0", "s", "0.500"],
        ["2", "2.0", "s", "0.500"],
    ]
    assert lines[7].startswith("done: 2 steps, ")
    assert lines[-1] == "  warnings:   1: 1 UserWarning"
    assert (tmp_path / "logs/console.log").read_text() == "before\nnoise\na.py:1: UserWarning: x\n"


def test_a_failure_ends_with_its_cause(tmp_path, monkeypatch, capfd):
    logged = "Traceback (most recent call last):\n  File \"my_reward.py\", line 5, in score\nKeyError: 'answer'\n"

    def train(config: DictConfig) -> None:
        os.write(2, (logged * 16).encode())
        raise RuntimeError("no trajectories")

    descriptors = [os.fstat(descriptor).st_ino for descriptor in (1, 2)]
    status, _ = run(tmp_path, train, monkeypatch)
    shown = capfd.readouterr()
    assert status == 1 and [os.fstat(descriptor).st_ino for descriptor in (1, 2)] == descriptors
    assert shown.out.splitlines()[-3].startswith("failed after 0.")
    assert shown.out.splitlines()[-1].startswith("  resume:     no checkpoint yet")
    frame, error, *cause = shown.err.splitlines()[1:]
    assert frame.startswith(f"  at {__file__}:") and frame.endswith(" train")
    assert error == "error: RuntimeError: no trajectories"
    assert cause == ["logged 16 times by workers:", "  at my_reward.py:5 score", "error: KeyError: 'answer'"]
    assert "RuntimeError: no trajectories" in (tmp_path / "logs/console.log").read_text()


class WatchdogError(RuntimeError):
    """Stand-in for the error of verl_adapters/watchdog.py."""


class ActorDiedError(RuntimeError):
    """Stand-in for Ray's error."""


STALLED = "treepo.watchdog.weights_seconds=20: nothing moves. Not answering: training worker 0 (process 7)."
LINES = "(WorkerDict pid=7) first\n(vLLMHttpServer pid=8) other\n(WorkerDict pid=7) waits for the engine\n"


@pytest.mark.parametrize(
    ("error", "logged", "shown"),
    [
        (
            WatchdogError(STALLED),
            LINES + "Traceback (most recent call last):\nKeyError: 'a consequence'\n",
            ["last lines of process 7:", "  first", "  waits for the engine", f"error: {STALLED}"],
        ),
        (  # the watchdog had to end the trainer's process
            ActorDiedError("The actor died.\n\tpid: 7"),
            f"{LINES}(TaskRunnerV1 pid=7) WatchdogError: {STALLED}\n",
            [f"error: {STALLED}"],
        ),
        (
            ActorDiedError("The actor died.\n\tpid: 8"),
            LINES,
            ["error: ActorDiedError: The actor died.", "\tpid: 8", "last lines of process 8:", "  other"],
        ),
    ],
)
def test_a_death_ends_with_its_cause_and_can_be_restarted(error, logged, shown, tmp_path, monkeypatch, capfd):
    def train(config: DictConfig) -> None:
        os.write(2, logged.encode())
        raise error

    assert run(tmp_path, train, monkeypatch)[0] == 75
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("  at ")]
    assert lines == shown


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted after "),
        (SystemExit(15), 15, "ended by a signal or an exit (15) after "),
        (SystemExit("x"), 1, "ended by a signal or an exit (x) after "),
    ],
)
def test_an_interrupted_run_shows_how_to_resume(tmp_path, monkeypatch, capfd, error, status, text):
    def train(config: DictConfig) -> None:
        raise error

    (tmp_path / "checkpoints/global_step_1/actor").mkdir(parents=True)
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("1")
    assert run(tmp_path, train, monkeypatch)[0] == status
    shown = capfd.readouterr()
    assert shown.out.splitlines()[-3].startswith(text) and shown.err == ""
    assert "continues after step 1" in shown.out.splitlines()[-1]


def test_where_logs_cannot_be_written_verls_console_is_used(tmp_path, monkeypatch, capfd):
    (tmp_path / "logs").write_text("a file")
    early = tmp_path / "early"
    early.write_text("before\n")
    called = []

    def train(config: DictConfig) -> None:
        called.append(config.trainer.logger)
        print("verl", file=sys.stderr)
        os.write(2, b"C\n")

    assert run(tmp_path, train, monkeypatch, early=early)[0] == 0
    assert called == [["console", "tensorboard"]]
    assert capfd.readouterr().err.startswith("before\n")


def test_a_console_that_breaks_never_fails_a_run(tmp_path, monkeypatch, capfd):
    def broken(*arguments: object) -> None:
        raise KeyError("x")

    for name in ("title", "results"):
        monkeypatch.setattr(f"recipe.treepo.verl_adapters.console.{name}", broken)
    monkeypatch.setattr("recipe.treepo.verl_adapters.console.LogScan.add", broken)
    monkeypatch.setattr("recipe.treepo.verl_adapters.console.RayLogs.close", broken)
    cleaned: list[float] = []

    def clean(since: float) -> list[str]:
        cleaned.append(since)
        return []

    monkeypatch.setattr("recipe.treepo.verl_adapters.console.remove_leftovers", clean)
    monkeypatch.setattr("recipe.treepo.console.reporter.Table.lines", broken)
    assert run(tmp_path, log_steps, monkeypatch)[0] == 0
    out = capfd.readouterr().out
    assert "treepo.console stopped reporting (KeyError: 'x')" in out and "done: " in out
    assert "Ray's logs were not copied completely (KeyError: 'x')" in out
    assert len(cleaned) == 1


def test_the_title_remarks_a_cache_block_beyond_the_segments(tmp_path):
    config = config_of(tmp_path)
    config.actor_rollout_ref.rollout.update(response_length=128, prompt_length=64, temperature=1)
    settings = TreePOSettings(depth=4, segment_length=32, cache_block=33)
    [*_, note] = title(config, settings, tmp_path)
    assert note.startswith("note: treepo.cache_block=33: has no effect on segments of 32 tokens")
    assert len(title(config, TreePOSettings(depth=4, segment_length=32, cache_block=32), tmp_path)) == 2
