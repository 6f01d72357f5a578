# SPDX-License-Identifier: Apache-2.0
"""Lines of a run's console made from its configuration: title, results and next commands."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.schema import Sampler, TreePOSettings, leads_conversations
from recipe.treepo.settings.tree_rules import unused_cache_block
from recipe.treepo.verl_adapters.console_files import run_folder

Note = tuple[str, str]
TRACKER = "latest_checkpointed_iteration.txt"
"""File in ``trainer.default_local_dir`` with the step of the last complete checkpoint."""
# Prefixes of the training overrides that affect an evaluation, and exceptions among them.
_EVALUATED = ("platform=", "preset=", "tree=", "data.", "treepo.", "actor_rollout_ref.rollout.", "reward.")
_TRAINING_ONLY = (
    *("data.train_files=", "data.train_batch_size=", "data.seed=", "actor_rollout_ref.rollout.seed="),
    *("treepo.console=", "treepo.dump", "treepo.packed_training=", "treepo.poll_interval="),
)


def title(config: DictConfig, settings: TreePOSettings, logs: Path) -> list[str]:
    """Return the title: model, sampler, estimator, sizes and folders."""
    rollout, model = config.actor_rollout_ref.rollout, str(config.actor_rollout_ref.model.path)
    parts = [f"{settings.sampler} sampler, {config.algorithm.adv_estimator} advantages, n {rollout.n}"]
    if settings.sampler is not Sampler.PLAIN:
        conversation = leads_conversations(settings, rollout.agent.default_agent_loop)
        length = settings.resolved_segment_length(config.data.max_response_length, conversation=conversation)
        parts.append(f"depth {settings.depth} x {length}")
    batch, steps = config.data.train_batch_size, config.trainer.total_training_steps
    parts.append(f"{steps} steps of {batch} prompts" if steps else f"{batch} prompts per step")
    folders = f"logs: {short(logs)}"
    if trees := trees_folder(config):
        folders += f"   trees: {short(Path(trees))}"
    lines = [f"treepo  {short(Path(model)) if os.path.isdir(model) else model}  {', '.join(parts)}", folders]
    remark = unused_cache_block(settings, config)
    return lines if remark is None else [*lines, f"note: {remark}"]


def results(config: DictConfig, environment: Mapping[str, str] = os.environ) -> list[Note]:
    """Return the locations of a run's results, and the commands to use them."""
    return [*_checkpoint(config), *_curves(config, environment), *_trees(config)]


def resume(config: DictConfig) -> Note:
    """Return the note on how to resume an unfinished run."""
    step, folder = last_checkpoint(config)
    if folder is None:
        return "resume", "no checkpoint yet (trainer.save_freq); the same command starts from the beginning"
    if config.trainer.get("resume_mode") == "disable":
        return "resume", f"from {short(folder)}, with trainer.resume_mode=auto"
    place = shlex.quote(f"trainer.default_local_dir={Path(str(config.trainer.default_local_dir)).absolute()}")
    return "resume", f"the same command with {place} continues after step {step}"


def last_checkpoint(config: DictConfig) -> tuple[int, Path | None]:
    """Return the step and the folder of the checkpoint that verl resumes, (0, None) if there is none.

    verl writes its tracker file after a checkpoint, so a checkpoint that was cut off does not count.
    """
    folder = Path(str(config.trainer.default_local_dir)).absolute()
    step = tracked_step(folder)
    if step is None or not (checkpoint := folder / f"global_step_{step}").is_dir():
        return 0, None
    return step, checkpoint


def tracked_step(checkpoints: Path) -> int | None:
    """Return the step in verl's tracker file, None if there is no such file or no number in it."""
    try:
        return int((checkpoints / TRACKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def trees_folder(config: DictConfig) -> str | None:
    """Return the folder of dumped trees, None if trees are not dumped."""
    folder = OmegaConf.select(config, "treepo.dump.dir")
    return str(folder) if folder else None


def short(path: Path) -> str:
    """Return a path quoted for a shell, relative to the working folder if inside it."""
    path = Path(os.path.abspath(path.expanduser()))
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def python() -> str:
    """Return the command that starts this Python."""
    found = shutil.which("python")
    if found and os.path.samefile(found, sys.executable) and os.path.dirname(found) == os.path.dirname(sys.executable):
        return "python"
    return short(Path(sys.executable))


def _checkpoint(config: DictConfig) -> list[Note]:
    step, folder = last_checkpoint(config)
    if folder is None:
        return [("checkpoint", f"none (trainer.save_freq={config.trainer.save_freq})")]
    notes = [("checkpoint", short(folder))]
    actor = config.actor_rollout_ref.actor
    if "hf_model" in (OmegaConf.select(actor, "checkpoint.save_contents") or ()):
        model = folder / "actor/huggingface"
    else:
        model = run_folder(config) / f"model_step_{step}"
        if not str(actor.strategy).startswith(("fsdp", "megatron")):  # which verl's model merger reads
            return notes
        notes.append(("export", f"{python()} -m recipe.treepo.main_export {short(run_folder(config))}"))
    return [*notes, ("evaluate", _evaluation(config, model))]


def _evaluation(config: DictConfig, model: Path) -> str:
    """Return the command that evaluates a model with this run's sampling settings."""
    overrides = evaluation_overrides(HydraConfig.get().overrides.task if HydraConfig.initialized() else [])
    if not config.actor_rollout_ref.rollout.val_kwargs.temperature:
        overrides.append("actor_rollout_ref.rollout.val_kwargs.temperature=1.0")  # greedy samples would be equal
    # Absolute paths, so that the overrides mean the same in any working folder.
    overrides.append(f"actor_rollout_ref.model.path={model}")
    overrides.append(f"evaluation.out_dir={run_folder(config) / 'evaluation'}")
    return f"{python()} -m recipe.treepo.main_eval {shlex.join(overrides)}"


def evaluation_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a training run that also affect its evaluation."""
    return [
        override
        for override in overrides
        if override.lstrip("+~").startswith(_EVALUATED) and not override.lstrip("+~").startswith(_TRAINING_ONLY)
    ]


def _curves(config: DictConfig, environment: Mapping[str, str]) -> list[Note]:
    loggers, name = config.trainer.logger, f"{config.trainer.project_name}/{config.trainer.experiment_name}"
    if "tensorboard" in loggers:
        folder = environment.get("TENSORBOARD_DIR") or f"tensorboard_log/{name}"
        return [("curves", f"{_tensorboard()} --logdir {short(Path(folder))}")]
    others = [logger for logger in loggers if logger not in ("file", "console")]
    return [("curves", f"{name} in {', '.join(others)}")] if others else []


def _tensorboard() -> str:
    beside = Path(sys.executable).with_name("tensorboard")
    return short(beside) if python() != "python" and beside.exists() else "tensorboard"


def _trees(config: DictConfig) -> list[Note]:
    folder = trees_folder(config)
    if folder is None:
        return []
    return [("trees", f"{python()} -m recipe.treepo.viewer {short(Path(folder))}")]
