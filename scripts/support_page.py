# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/support.md``: ``python scripts/support_page.py``.

The tables of trainers and models come from ``settings/support.py`` and ``packed/support.py``, beside the rules.
"""

from collections.abc import Iterator
from pathlib import Path

from recipe.treepo.evaluation.markdown import table
from recipe.treepo.packed.support import MODEL_TYPES
from recipe.treepo.settings.support import (
    DEVICE,
    ENGINES,
    MODE,
    MODEL,
    STRATEGIES,
    STRATEGY,
    TESTED,
    TRAINER_MODES,
    Status,
    status,
)

PAGE = Path(__file__).parents[1] / "docs/support.md"
# Names of engines, and of model families with their model_type; a family without one is any other.
ENGINE_NAMES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
FAMILIES = {
    "Qwen2, Qwen2.5": "qwen2",
    "Qwen3": "qwen3",
    "Llama": "llama",
    "other dense models": None,
    "mixture of experts": None,
    "sliding windows": None,
    "hybrid attention": None,
    "models with vision, text prompts": None,
}
# What verl's servers do with a request, read in verl 0.9.1 (verl/workers/rollout) and in SGLang 0.5.12, which it pins.
SERVERS = (
    ("length limit of a request", "kept", "kept; one token of the context stays free", "**overwritten**"),
    ("stop tokens", "kept", "kept", "overwritten by the model's own"),
    ("log-probabilities", "returned", "returned", "returned"),
    ("count of cached tokens", "returned", "not returned: metrics that need it are absent", "not returned"),
    ("seed of a request", "kept", "fails: `full_determinism` is refused", ""),
    ("stop strings", "end the request", "cut by the search afterwards", ""),
    ("priority", "kept", "dropped", "dropped"),
    ("cancelled request", "ends", "decodes to its end", ""),
    ("weight update during a request", "`aborted`", "`abort`", "`aborted`"),
    ("trees", Status.TESTED, Status.COMPOSES, Status.REFUSED),
)  # fmt: skip
OTHER_PARTS = (
    ("machine", "Linux, CPU, Python 3.11; two nodes (two raylets of one machine)",
     "NVIDIA GPUs, Python 3.12, several machines, Slurm, Kubernetes", ""),
    ("engine's numbers", "float32, bfloat16", "float16, fp8", ""),
    ("servers", "one, two replicas", "tensor parallelism", "pipeline parallelism"),
    ("ranks of a trainer", "one, two (data parallel)", "sequence parallelism",
     "sequence parallelism with packed training"),
    ("entry point", "`recipe.treepo.main_treepo`, `verl.trainer.main_ppo`", "", "verl's trainer before V1"),
    ("estimator",
     "`treepo`, `treepo_segment`, `treerl`, `treerpo`, `grpo`, `rloo`, `reinforce_plus_plus_baseline`, `gae`",
     "verl's others", "those that need numbers which verl does not pass"),
    ("objective", "DAPO's filter and clip, KL loss, KL in reward, all four loss aggregations",
     "verl's other policy losses", "`shared_token_weight=once` with losses that ignore weights"),
    ("prompts", "text; conversations; verl's tools", "", "images, video, audio; other agents"),
    ("results of tools", "text", "", "images, video (when they come)"),
    ("packed training", "`sdpa` on CPU", "`flex_attention`, `eager`",
     "Megatron, VeOmni, TorchTitan; fused kernels; distillation"),
    ("loggers", "TensorBoard, file", "verl's others", ""),
)  # fmt: skip


def support_page() -> str:
    """Return the page."""
    tested = (f"`{test}`" for test in TESTED)
    (first, *_) = TESTED.values()
    return f"""\
# Support

Written by `python scripts/support_page.py`; do not edit. verl 0.9.1 is required;
`tests/verl_adapters/test_contract.py` checks every part of it that we use.

- **tested**: a test runs it end to end with trees, on verl, Ray and vLLM 0.30 (CPU build).
- **composes**: the configuration passes all checks of the recipe and of verl. Trees never ran with it; a run says so in
  one line at its start.
- **refused**: the run stops with a remedy before Ray starts, unless a line below says otherwise.

No run on a GPU has been completed; `bash scripts/check_gpu.sh` would be the first. With `treepo.sampler=plain`,
verl's own sampler takes whatever verl takes.

## Trainers

Rows are `{STRATEGY}`, columns `{MODE}` without `treepo_`.
Tested with `{DEVICE}={first[DEVICE]}`: {", ".join(tested)}.

{"".join(_trainers())}\
- LoRA: `model.lora_rank`, for Megatron `model.lora.rank`. VeOmni and TorchTitan read neither and would train all
  weights.
- `treepo_separate_async` has separate GPUs for rollout. verl requires `actor_rollout_ref.rollout.nnodes`,
  `n_gpus_per_node`, a `checkpoint_engine.backend` other than `naive`, and `data.train_batch_size` =
  `parameter_sync_step` x `ppo_mini_batch_size`. On a CPU, the backend `gloo` of this recipe is the default.
- Two runs at a time on one machine have their own sockets with `main_treepo`
  (`tests/verl_adapters/test_transfer_names.py`).

## Engines

{table(("verl's server", *ENGINE_NAMES.values()), SERVERS)}

In `verl/workers/rollout`: `vllm_rollout/vllm_async_server.py`, `sglang_rollout/async_sglang_server.py`,
`trtllm_rollout/trtllm_async_server.py`. Without its limit, a request runs to the end of the response, and trees would
be plain samples. The search also rejects any result with more tokens than it asked for.

## Models

{table(("family", f"`{MODEL}`", "trees", "packed training"), _families())}

Unit tests compare packed training with verl's engine: FSDP and FSDP2, LoRA, two ranks, `sdpa` and `eager`; on an H200
also `flex_attention`. A model that is not on this machine is checked when it is loaded. Trees do not record the routing
of experts: `enable_rollout_routing_replay` is refused.

## Images, video, audio

Trees are text only. Rows with media in data files on this machine are refused before the start, others when their
prompt is sampled. Packed training refuses them, too. Use `treepo.sampler=plain` without packed training.

## Other parts

{table(("part", Status.TESTED, "never run", Status.REFUSED), OTHER_PARTS)}
"""


def _trainers() -> Iterator[str]:
    """Yield a table of strategies for each engine that runs trees, and the reason for the others."""
    for engine, reason in ENGINES.items():
        if reason is not None:
            yield f"{ENGINE_NAMES[engine]}: refused, because\n{reason}.\n\n"
            continue
        columns = [(mode, lora) for mode in TRAINER_MODES for lora in (False, True)]
        titles = [f"{mode.removeprefix('treepo_')}{' + LoRA' if lora else ''}" for mode, lora in columns]
        rows = (
            [strategy, *(status(mode=mode, engine=engine, strategy=strategy, lora=lora) for mode, lora in columns)]
            for strategy in STRATEGIES
        )
        yield f"{ENGINE_NAMES[engine]}:\n\n{table(('strategy', *titles), rows)}\n\n"


def _families() -> Iterator[tuple[str, ...]]:
    tested = {parts[MODEL] for parts in TESTED.values()}
    for name, model_type in FAMILIES.items():
        trees = Status.TESTED if model_type in tested else Status.COMPOSES
        packed = Status.REFUSED if model_type not in MODEL_TYPES else trees if model_type in tested else "unit tests"
        yield name, f"`{model_type}`" if model_type else "", trees, packed


if __name__ == "__main__":
    PAGE.write_text(support_page(), encoding="utf-8")
