# SPDX-License-Identifier: Apache-2.0
"""Export of a run's checkpoint to a folder that transformers and vLLM load, with verl's model merger."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from recipe.treepo.verl_adapters.console_notes import TRACKER, tracked_step

# File or folder in a checkpoint of the actor -> verl's name of what wrote it (verl/model_merger/__main__.py).
BACKENDS = {"fsdp_config.json": "fsdp", "dist_ckpt": "megatron"}


class ExportError(RuntimeError):
    """A run that cannot be exported. The message is for the user."""


def export(run: Path, step: int | None = None) -> Path:
    """Export a checkpoint of a run, unless that was done before, and return the folder of the model.

    Weights keep the precision of the checkpoint. A LoRA adapter is merged into them.

    Args:
        run: Folder of the run, or of its checkpoints (``trainer.default_local_dir``).
        step: Step of the checkpoint; None for the last complete one.

    Raises:
        ExportError: if there is no such checkpoint, or if verl cannot merge it.
    """
    checkpoints = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    steps = sorted(steps_of(checkpoints))
    if step is None and (step := tracked_step(checkpoints)) is None:
        raise ExportError(f"{checkpoints}: no complete checkpoint ({TRACKER} is missing or not a number).")
    if step not in steps:
        there = f"steps {', '.join(map(str, steps))}" if steps else "none"
        raise ExportError(f"{checkpoints}: no checkpoint of step {step}; there: {there}.")
    actor, target = checkpoints / f"global_step_{step}/actor", run / f"model_step_{step}"
    if list((actor / "huggingface").glob("*.safetensors")):  # saved with hf_model in save_contents
        return actor / "huggingface"
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        _merge(actor, part)
        part.rename(target)
    return target


def steps_of(checkpoints: Path) -> Iterator[int]:
    """Yield the steps of the checkpoints in a folder."""
    for folder in checkpoints.glob("global_step_*"):
        if (folder / "actor").is_dir() and folder.name.removeprefix("global_step_").isdigit():
            yield int(folder.name.removeprefix("global_step_"))


def _merge(actor: Path, target: Path) -> None:
    backend = next((name for file, name in BACKENDS.items() if (actor / file).exists()), None)
    if backend is None:
        raise ExportError(f"{actor}: not a checkpoint of FSDP or Megatron, which verl's model merger reads.")
    command = ["-m", "recipe.treepo.verl_adapters.model_merger", "merge", "--backend", backend]
    command += ["--local_dir", str(actor), "--target_dir", str(target)]
    if subprocess.run([sys.executable, *command], stdout=sys.stderr, check=False).returncode:
        raise ExportError(f"{actor}: verl's model merger failed; its message is above.")
    if (target / "lora_adapter").is_dir():
        _merge_adapter(target)


def _merge_adapter(model: Path) -> None:
    """Add the adapter to the weights beside it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = json.loads((model / "lora_adapter/adapter_config.json").read_text(encoding="utf-8"))
    if not settings["lora_alpha"]:  # verl's merger writes 0 if it does not know the scale
        raise ExportError(f"{model.name}: the checkpoint does not name lora_alpha (lora_train_meta.json).")
    base = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    PeftModel.from_pretrained(base, str(model / "lora_adapter")).merge_and_unload().save_pretrained(model)
    shutil.rmtree(model / "lora_adapter")
