# SPDX-License-Identifier: Apache-2.0
"""Inputs of an evaluation from verl: model description, data set rows, prompts, reward function."""

from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.reward_score import default_compute_score
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
from verl.workers.config import HFModelConfig

from recipe.treepo.interaction import Message
from recipe.treepo.settings.values import ConfigError, ConfigProblem


def load_model(config: DictConfig) -> HFModelConfig:
    """Return verl's model description: tokenizer, configuration, generation configuration.

    Raises:
        ConfigError: if the model does not exist, or transformers does not support it.
    """
    try:
        return omega_conf_to_dataclass(config.actor_rollout_ref.model, dataclass_type=HFModelConfig)
    except (OSError, ValueError) as error:
        key, rule = "actor_rollout_ref.model.path", f"cannot be loaded ({error})"
        path, remedy = config.actor_rollout_ref.model.path, "Name another model."
        raise ConfigError([ConfigProblem("model_not_loaded", key, path, rule, remedy)]) from error


def read_rows(config: DictConfig, tokenizer: Any, file: str) -> Sequence[dict[str, Any]]:
    """Open one file of ``data.val_files`` with verl's data set class, as in validation.

    The rows are the first ``data.val_max_samples`` of the file. verl would draw them at random without a seed, but a
    resumed evaluation needs the same rows.

    Args:
        config: Complete configuration.
        tokenizer: Tokenizer of the model.
        file: Path of a parquet file.

    Returns:
        Rows, read on access; access raises if verl cannot read the row.
    """
    data = OmegaConf.merge(config.data, {"shuffle": False})
    assert isinstance(data, DictConfig)
    most = data.get("val_max_samples", -1)
    rows: Sequence[dict[str, Any]] = create_rl_dataset([file], data, tokenizer, None, is_train=False, max_samples=most)
    return rows


def prompt_builder(config: DictConfig, model: HFModelConfig) -> Callable[[list[Message]], list[int]]:
    """Return a function from messages to prompt tokens, the same as in verl's agent loops."""
    builder = create_continuous_token_builder(
        model.tokenizer,
        hf_model_type=getattr(model.hf_config, "model_type", None),
        chat_template_kwargs=config.data.get("apply_chat_template_kwargs", {}),
        mm_processor_kwargs={},
        processor=None,
    )
    build_prompt: Callable[[list[Message]], list[int]] = builder.build_initial_tokens
    return build_prompt


def reward_function(config: DictConfig) -> Callable[..., Any]:
    """Return the configured reward function, or verl's default; it may be a coroutine function."""
    function: Callable[..., Any] = get_custom_reward_fn(config) or default_compute_score
    return function
