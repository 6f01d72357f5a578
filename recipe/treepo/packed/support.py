# SPDX-License-Identifier: Apache-2.0
"""Training engines, attention implementations and models that packed training supports."""

from typing import Any

# Values of verl's `strategy`; packed training extends these engines.
PACKED_STRATEGIES = ("fsdp", "fsdp2")
# Values of `attn_implementation` with attention within prefix trees.
PACKED_ATTENTIONS = ("eager", "flex_attention", "sdpa")
# Values of `model_type` in the configuration of a model.
MODEL_TYPES = ("llama", "qwen2", "qwen3")


def check_model(config: Any) -> None:
    """Reject models and attention implementations for which packed training would compute wrong results.

    Args:
        config: Configuration of the model, from transformers.

    Raises:
        ValueError: with the problem and the remedy.
    """
    problem = None
    if config.model_type not in MODEL_TYPES:
        problem = f"supports {', '.join(MODEL_TYPES)}, not {config.model_type}. Use such a model"
    elif getattr(config, "use_sliding_window", False):
        problem = "does not support sliding windows. Use a model without them"
    elif config._attn_implementation not in PACKED_ATTENTIONS:
        problem = (
            f"supports attn_implementation {', '.join(PACKED_ATTENTIONS)}, not {config._attn_implementation}. "
            "Set override_config.attn_implementation to one of them"
        )
    if problem is not None:
        raise ValueError(f"treepo.packed_training=true: {problem}, or set treepo.packed_training=false.")
