# SPDX-License-Identifier: Apache-2.0
"""The problems of an evaluation: read with verl's own data set and prompt builder, as a validation reads them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.schema import SINGLE_TURN_AGENT
from recipe.treepo.settings.training_rules import is_our_reward
from recipe.treepo.settings.values import ConfigError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProblem:
    """One row of a data set.

    Attributes:
        data_source: Name of the data set, from the row.
        row: Place among the rows of that name, in the order of the files.
        prompt_ids: Tokens of the prompt.
        fields: The row, for the reward function.
    """

    data_source: str
    row: int
    prompt_ids: list[int]
    fields: dict[str, Any]


def load_problems(config: DictConfig, tokenizer: Any, model_type: str | None) -> list[EvaluationProblem]:
    """Read ``data.val_files``, as many rows of each as ``data.val_max_samples``.

    Files are read one by one, because verl concatenates those of a list, which takes equal types. The first rows are
    taken, where verl draws some by default, without a seed: an evaluation that goes on has to ask the same.

    Raises:
        ConfigError: naming rows that cannot be evaluated, and why.
    """
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    files = config.data.val_files
    builder = create_continuous_token_builder(
        tokenizer,
        hf_model_type=model_type,
        chat_template_kwargs=config.data.get("apply_chat_template_kwargs", {}),
        mm_processor_kwargs={},
        processor=None,
    )
    data = OmegaConf.merge(config.data, {"shuffle": False})
    assert isinstance(data, DictConfig)
    blank_truths = not is_our_reward(config)
    rows: Counter[str] = Counter()
    found, problems = [], []
    for file in files if OmegaConf.is_list(files) else [files]:
        dataset = create_rl_dataset(
            [file], data, tokenizer, None, is_train=False, max_samples=data.get("val_max_samples", -1)
        )
        for number in range(len(dataset)):
            try:
                fields = dataset[number]
                fields.pop("dummy_tensor", None)
                wrong = _row_problem(fields, blank_truths)
                prompt_ids = [] if wrong else builder.build_initial_tokens(list(fields["raw_prompt"]))
            except Exception as error:  # whatever verl's data set or a chat template makes of a row
                wrong = f"cannot be made a prompt ({type(error).__name__}: {error})"
            if not wrong and len(prompt_ids) > data.max_prompt_length:
                wrong = f"has a prompt of {len(prompt_ids)} tokens, more than data.max_prompt_length"
            if wrong:
                remedy = f"Drop such rows; `python -m data_prep.check {file}` finds them."
                problems.append(Problem("data.val_files", f"{file}, row {number}", wrong, remedy))
                continue
            source = str(fields["data_source"])
            found.append(EvaluationProblem(data_source=source, row=rows[source], prompt_ids=prompt_ids, fields=fields))
            rows[source] += 1
    if not problems and not found:
        problems = [Problem("data.val_files", files, "hold no problems", "Name other files, or keep longer prompts.")]
    if problems:
        raise ConfigError(_first(problems, 10))
    return found


def _row_problem(fields: dict[str, Any], blank_truths: bool) -> str | None:
    """Return why a row cannot be evaluated."""
    reward_model = fields.get("reward_model")
    if not isinstance(reward_model, dict):
        reward_model = {}
    truth = reward_model.get("ground_truth")
    if "ground_truth" not in reward_model or (not blank_truths and (truth is None or not str(truth).strip())):
        return "has no reward_model.ground_truth to score against"
    if not str(fields.get("data_source") or "").strip():
        return "has no data_source"
    if fields.get("agent_name") not in (None, SINGLE_TURN_AGENT):
        return f"asks for the agent {fields['agent_name']}; only {SINGLE_TURN_AGENT} is evaluated"
    if not fields["raw_prompt"] or any(not isinstance(message["content"], str) for message in fields["raw_prompt"]):
        return "has no prompt of text"
    return None


def _first(problems: Sequence[Problem], most: int) -> list[Problem]:
    rest = len(problems) - most
    more = [Problem("data.val_files", "...", f"{rest} more rows cannot be evaluated", "See above.")] if rest > 0 else []
    return [*problems[:most], *more]
