# SPDX-License-Identifier: Apache-2.0
"""Read the problems of an evaluation from ``data.val_files``."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recipe.treepo.settings.schema import SINGLE_TURN_AGENT
from recipe.treepo.settings.values import ConfigError, ConfigProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProblem:
    """One row of a data set.

    Attributes:
        data_source: Name of the data set, from the row.
        row: Index among the rows of that name, in file order.
        prompt_ids: Prompt tokens.
        fields: All fields of the row, for the reward function.
    """

    data_source: str
    row: int
    prompt_ids: list[int]
    fields: dict[str, Any]


def load_problems(
    files: Sequence[str],
    read_rows: Callable[[str], Sequence[dict[str, Any]]],
    build_prompt: Callable[[list[dict[str, Any]]], list[int]],
    *,
    max_prompt_length: int,
    blank_truths: bool,
) -> list[EvaluationProblem]:
    """Read the files of ``data.val_files``.

    Args:
        files: File names. Files are read separately; verl would concatenate them, which needs equal column types.
        read_rows: Function from a file name to its rows.
        build_prompt: Function from messages to prompt tokens.
        max_prompt_length: Maximum number of prompt tokens.
        blank_truths: Whether rows may have a blank ground truth.

    Raises:
        ConfigError: if rows cannot be evaluated, with the first ten and the reasons; or if there are no rows.
    """
    rows: Counter[str] = Counter()
    accepted, problems = [], []
    for file in files:
        file_rows = read_rows(file)
        for number in range(len(file_rows)):
            try:
                fields = file_rows[number]
                fields.pop("dummy_tensor", None)
                wrong = _row_problem(fields, blank_truths)
                prompt_ids = [] if wrong else build_prompt(list(fields["raw_prompt"]))
            except Exception as error:  # verl's data set and chat templates raise many types
                wrong = f"cannot be converted to a prompt ({type(error).__name__}: {error})"
            if not wrong and len(prompt_ids) > max_prompt_length:
                wrong = f"has a prompt of {len(prompt_ids)} tokens, more than data.max_prompt_length"
            if wrong:
                remedy = f"Remove such rows; `python -m recipe.treepo.data_prep.check {file}` lists them."
                problems.append(ConfigProblem("wrong_row", "data.val_files", f"{file}, row {number}", wrong, remedy))
                continue
            source = str(fields["data_source"])
            accepted.append(
                EvaluationProblem(data_source=source, row=rows[source], prompt_ids=prompt_ids, fields=fields)
            )
            rows[source] += 1
    if not problems and not accepted:
        remedy = "Use other files, or keep longer prompts."
        problems = [ConfigProblem("no_rows", "data.val_files", list(files), "contain no problems", remedy)]
    if problems:
        raise ConfigError(_first(problems, 10))
    return accepted


def _row_problem(fields: dict[str, Any], blank_truths: bool) -> str | None:
    """Return the reason why a row cannot be evaluated, or None."""
    reward_model = fields.get("reward_model")
    if not isinstance(reward_model, dict):
        reward_model = {}
    truth = reward_model.get("ground_truth")
    if "ground_truth" not in reward_model or (not blank_truths and (truth is None or not str(truth).strip())):
        return "has no reward_model.ground_truth for the reward"
    if not str(fields.get("data_source") or "").strip():
        return "has no data_source"
    if fields.get("agent_name") not in (None, SINGLE_TURN_AGENT):
        return f"has agent_name={fields['agent_name']}, but an evaluation supports only {SINGLE_TURN_AGENT}"
    if not fields["raw_prompt"] or any(not isinstance(message["content"], str) for message in fields["raw_prompt"]):
        return "has no text prompt"
    return None


def _first(problems: Sequence[ConfigProblem], most: int) -> list[ConfigProblem]:
    rest = len(problems) - most
    rule = f"{rest} more rows cannot be evaluated"
    more = [ConfigProblem("more_wrong_rows", "data.val_files", "...", rule, "See above.")] if rest > 0 else []
    return [*problems[:most], *more]
