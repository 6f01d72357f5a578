# SPDX-License-Identifier: Apache-2.0
"""What packed training supports: training engines, attention implementations, models."""

from typing import Any

# Values of verl's `strategy`: the engines that packed training extends.
PACKED_STRATEGIES = ("fsdp", "fsdp2")
# Values of `attn_implementation`: they accept a mask of prefix trees.
PACKED_ATTENTIONS = ("eager", "flex_attention", "sdpa")
# Values of `model_type` in a model's configuration.
MODEL_TYPES = ("llama", "qwen2", "qwen3")


def check_model(config: Any) -> None:
    """Refuse models and attention implementations for which packing would be wrong.

    Args:
        config: The model's configuration, of transformers.

    Raises:
        ValueError: naming the problem and the remedy.
    """
    problem = None
    if config.model_type not in MODEL_TYPES:
        problem = f"knows {', '.join(MODEL_TYPES)}, not {config.model_type}"
    elif getattr(config, "use_sliding_window", False):
        problem = "does not know sliding windows"
    elif config._attn_implementation not in PACKED_ATTENTIONS:
        problem = (
            f"needs attn_implementation {', '.join(PACKED_ATTENTIONS)}, not {config._attn_implementation}: "
            "set override_config.attn_implementation"
        )
    if problem is not None:
        raise ValueError(f"treepo.packed_training=true {problem}; or set treepo.packed_training=false")
