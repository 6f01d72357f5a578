# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/reference/memory.md``: ``python scripts/memory_page.py``.

The memory of the gpu presets, worked out from their settings and from the sizes of Qwen2.5-0.5B.
"""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.evaluation.markdown import table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/memory.md"
CARD = 24 * 10**9
PHASES = ("sampling", "weight transfer", "log-probs", "update")
# Bytes per logit, in the passes for old log-probabilities (with entropies) and in the update.
LOGIT = 10
# verl's rollout.checkpoint_engine.update_weights_bucket_megabytes
BUCKET = 2048 * 2**20


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of a Qwen2 with tied embeddings; the defaults are those of Qwen2.5-0.5B."""

    layers: int = 24
    hidden: int = 896
    intermediate: int = 4864
    key_value_heads: int = 2
    head: int = 64
    vocabulary: int = 151_936

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, which is the output layer, too."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of a layer: query and output, keys and values, their biases, MLP, two norms."""
        keys = self.key_value_heads * self.head
        attention = 2 * self.hidden**2 + 2 * self.hidden * keys + self.hidden + 2 * keys
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        return self.embedding + self.layers * self.layer + self.hidden

    @property
    def cache_per_token(self) -> int:
        """Bytes of keys and values of a token in bfloat16."""
        return 2 * 2 * self.layers * self.key_value_heads * self.head


MODEL = Model()


def preset(*names: str) -> DictConfig:
    """Return the merged keys of presets."""
    folder = ROOT / "recipe/treepo/config/preset"
    merged = OmegaConf.merge(*(OmegaConf.load(folder / f"{name}.yaml") for name in names))
    assert isinstance(merged, DictConfig)
    return merged


PRESETS = {"gpu": preset("gpu"), "gpu_chat": preset("gpu", "gpu_chat")}


def length(config: DictConfig) -> int:
    """Return the tokens of the longest sequence."""
    return int(config.data.max_prompt_length + config.data.max_response_length)


def account(config: DictConfig) -> dict[str, dict[str, int]]:
    """Return bytes by part and phase.

    Args:
        config: Keys of a preset, with micro-batches of equal numbers of sequences.
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    rows = max(actor.ppo_micro_batch_size_per_gpu, rollout.log_prob_micro_batch_size_per_gpu)
    positions, units = rows * length(config), MODEL.embedding + 2 * MODEL.layer
    trains = dict.fromkeys(PHASES[2:])
    activations = 2 * positions * (MODEL.layers * MODEL.hidden + 4 * MODEL.intermediate + 16 * MODEL.hidden)
    return {
        "weights, float32": dict.fromkeys(PHASES, 4 * MODEL.parameters),
        "Adam's two moments, float32": dict.fromkeys(PHASES, 8 * MODEL.parameters),
        "gradients, float32": {"update": 4 * MODEL.parameters},
        "gathered units: embedding and two layers": {"log-probs": 2 * units, "update": 12 * units},
        "activations": dict.fromkeys(trains, activations),
        "logits": dict.fromkeys(trains, LOGIT * positions * MODEL.vocabulary),
        "vLLM": {"sampling": round(rollout.gpu_memory_utilization * CARD), "weight transfer": 2 * MODEL.parameters},
        "bucket, largest weight": {"weight transfer": BUCKET + 4 * MODEL.embedding},
    }


def sums(config: DictConfig) -> dict[str, int]:
    """Return the bytes of each phase."""
    return {phase: sum(part.get(phase, 0) for part in account(config).values()) for phase in PHASES}


def memory_page() -> str:
    """Return the page."""
    gpu, chat = PRESETS.values()
    parts = [[part, *(_gigabytes(own.get(phase)) for phase in PHASES)] for part, own in account(gpu).items()]
    totals = [
        [f"{name}: {what}", *(_gigabytes(number(own)) for own in sums(config).values())]
        for name, config in PRESETS.items()
        for what, number in (("sum", int), ("left of 24", lambda own: CARD - own))
    ]
    rows, chat_rows = (config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu for config in (gpu, chat))
    most = gpu.actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    cached = gpu.data.train_batch_size * gpu.actor_rollout_ref.rollout.n * length(gpu) * MODEL.cache_per_token
    paper = 512 + 14 * 512  # tokens of tree=paper_best
    return f"""\
# Memory of the gpu presets

Worked out from sizes, not measured: no run on a GPU has been completed. Written by `python scripts/memory_page.py`; do
not edit.

Qwen2.5-0.5B has {MODEL.parameters:,} parameters, {MODEL.embedding:,} of them in its embedding. The presets train it
with FSDP2 on one GPU of 24 GB, in micro-batches of {rows} sequences of up to {length(gpu):,} tokens (`gpu_chat`: \
{chat_rows} of up to {length(chat):,}).
In GB (10^9 bytes):

{table(("preset gpu", *PHASES), parts)}

{table(("preset", *PHASES), totals)}

What is left must hold what is not worked out: the CUDA contexts of trainer and engine, CUDA graphs and buffers that
vLLM keeps while it sleeps, and gaps between the blocks of torch's allocator.

- **Weights, moments, gradients.** verl loads the actor in float32 (`FSDPEngine._build_module`). The optimizer's state
  has the same type, and gradients are summed in float32. They are freed after the update.
- **Gathered units.** FSDP2 computes with a bfloat16 copy of a unit: a layer, or the embedding. In the update, a unit
  also has a bfloat16 gradient and two float32 buffers: 12 bytes per parameter.
- **Activations.** With gradient checkpointing, verl's default: the input of each layer, and of the layer that is
  computed again about 4 x {MODEL.intermediate:,} + 16 x {MODEL.hidden} numbers per token.
- **Logits.** {LOGIT} bytes per position and entry of the vocabulary ({MODEL.vocabulary:,}). The model returns 2.
  Entropies (`entropy_from_logits`) need a float32 softmax and its product with the logits, 8 more. The update needs two
  copies to leave out padding, and the float32 log-softmax of each row (`logprobs_from_logits_v2`), also 8 more.
- **Padding.** verl pads a micro-batch to its longest sequence, unless it removes padding. A limit of tokens
  (`use_dynamic_bsz=true`) does not bound the padded size: one long and many short sequences fit into it. The presets
  therefore fix the number of sequences.
- **vLLM.** `gpu_memory_utilization` of the card while it samples. Then it sleeps (`free_cache_engine`, level 2) and
  releases weights and KV cache. Keys and values of a token take {MODEL.cache_per_token:,} bytes: \
{_gigabytes(cached)} GB for all trajectories of a
  batch at full length, without sharing.
- **Transfer.** verl sends float32 weights through a buffer of {BUCKET / 2**20:,.0f} MiB. vLLM then has its weights, and
  no KV cache.

The table has no reference model and no critic. Logits grow with the length: with `tree=paper_best` ({paper:,} tokens),
one sequence takes {_gigabytes(LOGIT * paper * MODEL.vocabulary)} GB.

Packed training has no padding and computes logits of responses only, so a limit of tokens bounds it. Let it divide a
batch by tokens: `treepo.packed_training=true actor_rollout_ref.actor.use_dynamic_bsz=true`. With the preset's
`ppo_max_token_len_per_gpu` of {most:,} unique tokens, logits then take at most \
{_gigabytes(LOGIT * most * MODEL.vocabulary)} GB.
"""


def _gigabytes(number: int | None) -> str:
    return "" if number is None else f"{number / 1e9:.2f}"


if __name__ == "__main__":
    PAGE.write_text(memory_page(), encoding="utf-8")
