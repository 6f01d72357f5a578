# SPDX-License-Identifier: Apache-2.0
"""Support of trees: what tests train end to end, what only composes, and what is refused.

``scripts/support_page.py`` writes docs/support.md from these tables. The rules take their reasons from here.
"""

from collections.abc import Mapping
from enum import StrEnum

from omegaconf import DictConfig

from recipe.treepo.settings.model_files import model_config
from recipe.treepo.settings.schema import TREEPO_TRAINERS, Sampler
from recipe.treepo.settings.values import ConfigProblem
from recipe.treepo.settings.verl_values import ACTOR, ROLLOUT, value, whole

DEVICE, MODE, ENGINE = "trainer.device", "trainer.v1.trainer_mode", f"{ROLLOUT}.name"
STRATEGY, LORA, MODEL = f"{ACTOR}.strategy", "actor_rollout_ref.model.lora_rank", "model_type"
TRAINER_MODES = tuple(TREEPO_TRAINERS)


class Status(StrEnum):
    """Support of a combination."""

    TESTED = "tested"
    COMPOSES = "composes"
    REFUSED = "refused"


# Engines with the reason why trees cannot run on them (verl/workers/rollout/*/async_*_server.py, generate).
ENGINES: Mapping[str, str | None] = {
    "vllm": None,
    "sglang": None,
    "trtllm": "verl's TensorRT-LLM server ignores the length limit of a request, so trees cannot stop at segment ends",
}
# Training engines of verl with the key below actor_rollout_ref.model for the rank of LoRA (verl/workers/engine). The
# last two read none: they would train all weights.
STRATEGIES: Mapping[str, str | None] = {
    **dict.fromkeys(("fsdp2", "fsdp", "fsdp_turbo"), "lora_rank"),
    "megatron": "lora.rank",
    "veomni": None,
    "torchtitan": None,
}
Parts = Mapping[str, object]
"""Values by key; MODEL stands for the ``model_type`` of the model's configuration."""
_USUAL: Parts = {DEVICE: "cpu", ENGINE: "vllm", STRATEGY: "fsdp2", LORA: 0, MODEL: "qwen2"}
# Combinations that tests train end to end with trees. After a change run `python scripts/support_page.py`.
TESTED: Mapping[str, Parts] = {
    "tests/e2e/test_training.py": {**_USUAL, MODE: "treepo_sync"},
    "tests/e2e/test_small.py": {**_USUAL, MODE: "treepo_sync", MODEL: "llama"},
    "tests/e2e/test_lora.py": {**_USUAL, MODE: "treepo_sync", LORA: 8},
    "tests/e2e/test_conversations.py": {**_USUAL, MODE: "treepo_colocate_async"},
    "tests/e2e/test_separate_async.py": {**_USUAL, MODE: "treepo_separate_async"},
}


def status(*, mode: str, engine: str, strategy: str, lora: bool) -> Status:
    """Return the support of a combination on some device, for some model."""
    if ENGINES[engine] is not None or (lora and STRATEGIES[strategy] is None):
        return Status.REFUSED
    parts = {MODE: mode, ENGINE: engine, STRATEGY: strategy, LORA: int(lora)}
    return Status.COMPOSES if all(_differences(parts, tested) for tested in TESTED.values()) else Status.TESTED


def never_run_note(config: DictConfig, *, trains: bool = True) -> ConfigProblem | None:
    """Return a note on what differs from the nearest tested combination, None if nothing does or without trees.

    Args:
        trains: Whether the configuration is that of a training run, not of an evaluation.
    """
    if value(config, "treepo.sampler") == Sampler.PLAIN:
        return None
    parts = {DEVICE: value(config, DEVICE), ENGINE: value(config, ENGINE), MODEL: model_config(config).get(MODEL)}
    if trains:
        ranks = [whole(config, f"actor_rollout_ref.model.{key}") or 0 for key in ("lora_rank", "lora.rank")]
        parts |= {MODE: value(config, MODE), STRATEGY: value(config, STRATEGY), LORA: max(ranks)}
    nearest = min((_differences(parts, tested) for tested in TESTED.values()), key=len)
    if not nearest:
        return None
    (first, known), *others = nearest.items()
    more = "".join(f"Nor with {key}={parts[key]} (only {other}). " for key, other in others)
    rule = f"trees never ran in this combination, only with {known}"
    return ConfigProblem("never_run", first, parts[first], rule, f"{more}See docs/support.md.")


def _differences(parts: Parts, tested: Parts) -> dict[str, object]:
    """Return the tested values of the known parts that differ; the rank of LoRA matters only in being 0 or not."""
    alike = {key for key, found in parts.items() if found is None or found == tested[key]}
    if LORA in parts and bool(parts[LORA]) == bool(tested[LORA]):
        alike.add(LORA)
    return {key: tested[key] for key in parts if key not in alike}
