# SPDX-License-Identifier: Apache-2.0
"""Training engines, attention implementations and models that packed training supports."""

from typing import Any

# Values of verl's `strategy`; packed training extends these engines.
PACKED_STRATEGIES = ("fsdp", "fsdp2")
# Values of `attn_implementation` with attention within prefix trees.
PACKED_ATTENTIONS = ("eager", "flex_attention", "sdpa")
# Values of `model_type` in the configuration of a model.
MODEL_TYPES = ("llama", "qwen2", "qwen3")


def model_problem(model_type: object, sliding_window: object) -> tuple[str, str] | None:
    """Return rule and remedy for a model for which packed training would compute wrong results, else None.

    Args:
        model_type: ``model_type`` of the model's configuration.
        sliding_window: Whether the model has sliding windows.
    """
    without = "or set treepo.packed_training=false"
    if model_type not in MODEL_TYPES:
        return f"supports {', '.join(MODEL_TYPES)}, not {model_type}", f"Use such a model, {without}."
    if sliding_window:
        return "does not support sliding windows", f"Use a model without them, {without}."
    return None


def check_model(config: Any) -> None:
    """Reject models and attention implementations for which packed training would compute wrong results.

    Args:
        config: Configuration of the model, from transformers.

    Raises:
        ValueError: with the problem and the remedy.
    """
    problem = model_problem(config.model_type, getattr(config, "use_sliding_window", False))
    attention = config._attn_implementation
    if problem is None and attention not in PACKED_ATTENTIONS:
        rule = f"supports attn_implementation {', '.join(PACKED_ATTENTIONS)}, not {attention}"
        problem = rule, "Set override_config.attn_implementation to one of them, or set treepo.packed_training=false."
    if problem is not None:
        raise ValueError(f"treepo.packed_training=true: {'. '.join(problem)}")
