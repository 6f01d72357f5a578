# SPDX-License-Identifier: Apache-2.0
"""Rules of verl 0.9.1 and this recipe for rows and columns of data files; pure.

A run checks a sample of its rows (`data_files.py`), `python -m recipe.treepo.data_prep.check` all of them.

Sources of the rules:

- verl's RLHFDataset: `prompt`, `extra_info`.
- verl's reward managers: `data_source`, `reward_model.ground_truth`; recipe.treepo.reward refuses a blank one.
- verl's agent loops receive every column as an argument and store it with the samples.
- Trees replace single_turn_agent only.
"""

import datetime
import functools
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any

from recipe.treepo.answers.compare import compare_text
from recipe.treepo.answers.question import Question
from recipe.treepo.answers.spelling import PLAIN_NUMBER, normalize, number_of
from recipe.treepo.answers.truth import MAX_ANSWER_CHARS, lacks_answer, read_truth
from recipe.treepo.settings.data_reading import DataFileError
from recipe.treepo.settings.schema import REPLACED_AGENTS
from recipe.treepo.settings.values import is_number

NEEDED = ("prompt", "data_source", "reward_model")
MEDIA = ("images", "videos", "audios")
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
# Forbidden names of columns: arguments of verl's agent loops, fields of their output, and fields that the trainer reads
# if present.
RESERVED = (
    *("sampling_params", "trajectory", "trace", "session_id", "validate", "output", "self", "tree_request"),
    *("prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "routed_experts"),
    *("extra_fields", "teacher_ids", "teacher_logprobs", "ref_log_prob", "rollout_is_weights", "token_level_rewards"),
)
# Columns that verl reads: priority in the engine's queue, number of trajectories, numbers of a metric.
PRIORITY, ROLLOUTS, TURNS = "priority", "__rollout_n__", "num_turns"

cache_of_texts = functools.lru_cache(maxsize=20_000)  # ground truths recur


class Severity(Enum):
    """Severity of a finding: an error makes the row unusable, a warning may change its effect."""

    ERROR = "error"
    WARNING = "warning"


class Finding(Enum):
    """Problem of a row: severity, reason, remedy."""

    NO_MESSAGES = (Severity.ERROR, "prompt is not a list of messages", "write [{role, content}, ...]")
    BAD_MESSAGE = (Severity.ERROR, "a message has no role or content, or they are not text", "write both as text")
    MULTI_MODAL = (Severity.ERROR, "has images, video or audio, but trees are text only", "use treepo.sampler=plain")
    BLANK_PROMPT = (Severity.ERROR, "all messages of prompt are blank", "drop the row")
    JSON_PROMPT = (
        Severity.ERROR,
        "prompt is JSON text, not a list of messages",
        "write the parsed list (json.loads) [{role, content}, ...]",
    )
    UNKNOWN_ROLE = (
        Severity.WARNING,
        "a message has an unknown role, which chat templates ignore, misread or refuse",
        "use system, user, assistant or tool",
    )
    TEMPLATE = (Severity.ERROR, "the chat template refuses the messages", "fix their roles and order")
    NO_REWARD_MODEL = (
        Severity.ERROR,
        "reward_model is not an object with ground_truth",
        "write {style, ground_truth}; parse JSON text (json.loads)",
    )
    NO_TRUTH = (Severity.ERROR, "reward_model.ground_truth is missing or blank", "drop the row")
    ODD_TRUTH = (
        Severity.ERROR,
        "reward_model.ground_truth is neither text nor a finite number",
        "write one answer as text",
    )
    NO_ANSWER = (
        Severity.WARNING,
        "ground truth is not an answer (such as N/A, Proof or a printed list), but only its own text matches it",
        "drop the row",
    )
    DATE_TRUTH = (
        Severity.ERROR,
        "reward_model.ground_truth is a date or time to verl, as are ISO dates in all rows of a JSON file",
        "write one answer as text, into a parquet file",
    )
    EMPTY_TRUTH = (Severity.ERROR, "ground truth has only markup: no answer matches it", "drop the row")
    EXTRA_INFO = (Severity.ERROR, "extra_info is not an object", "write fields, or omit the column")
    AGENT = (
        Severity.ERROR,
        f"agent_name is not {' or '.join(REPLACED_AGENTS)}",
        "omit it, or use treepo.sampler=plain",
    )
    PRIORITY = (
        Severity.ERROR,
        "priority is not a whole number, but verl's agent loops pass it to the engine",
        "rename or drop the column, or write whole numbers",
    )
    ROLLOUTS = (
        Severity.ERROR,
        "__rollout_n__ is not a positive whole number, but verl samples as many trajectories",
        "drop the column, or write positive whole numbers",
    )
    TURNS = (
        Severity.ERROR,
        "num_turns is not a number, but verl computes a metric with it",
        "rename or drop the column, or write numbers",
    )
    LAST_ROLE = (Severity.WARNING, "the last message is not the user's", "end the prompt with the user's message")
    DUPLICATE = (Severity.WARNING, "same prompt as an earlier row", "prepare with --deduplicate")
    TOO_LONG = (
        Severity.WARNING,
        "prompt longer than --max-prompt-length: verl cuts off its beginning",
        "set data.filter_overlong_prompts=true, or prepare with --max-prompt-tokens",
    )
    LONG_TRUTH = (
        Severity.WARNING,
        f"ground truth has more than {MAX_ANSWER_CHARS:,} characters: an answer must be spelled the same",
        "drop the row",
    )
    UNREADABLE_TRUTH = (
        Severity.WARNING,
        "math-verify cannot read the ground truth: an answer must be spelled the same",
        "write a number, formula or word, or drop the row",
    )
    NO_SOURCE = (Severity.WARNING, "data_source is blank: its accuracy metric has no name", "name the data set")

    @property
    def severity(self) -> Severity:
        """Error or warning."""
        return self.value[0]

    @property
    def reason(self) -> str:
        """Description of the problem."""
        return self.value[1]

    @property
    def remedy(self) -> str:
        """Repair of the row."""
        return self.value[2]


def column_problems(names: Sequence[str], needed: Sequence[str] = NEEDED) -> list[DataFileError]:
    """Return the problems of a file's columns that make it unusable.

    Args:
        names: Names of the columns, with repetitions.
        needed: Columns that a row needs.
    """
    problems = []
    if missing := [name for name in needed if name not in names]:
        problems.append(DataFileError("missing_column", f"has no column {', '.join(missing)}", "Prepare it again."))
    if taken := [name for name in RESERVED if name in names]:
        rule = f"verl's agent loops use the name of column {', '.join(taken)} themselves"
        problems.append(DataFileError("reserved_column", rule, "Rename or drop it."))
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        rule = f"has column {', '.join(twice)} more than once"
        problems.append(DataFileError("duplicate_column", rule, "Keep one of them."))
    return problems


def row_findings(row: Mapping[str, Any]) -> set[Finding]:
    """Return the findings of one row, without checks that need other rows, a tokenizer or math-verify."""
    findings = prompt_findings(row.get("prompt")) | truth_findings(row.get("reward_model"))
    if any(row.get(column) for column in MEDIA):
        findings.add(Finding.MULTI_MODAL)
    if not isinstance(row.get("extra_info"), dict | None):
        findings.add(Finding.EXTRA_INFO)
    if "agent_name" in row and row["agent_name"] not in REPLACED_AGENTS:
        findings.add(Finding.AGENT)
    if PRIORITY in row and _whole_number(row[PRIORITY]) is None:
        findings.add(Finding.PRIORITY)
    if ROLLOUTS in row and (_whole_number(row[ROLLOUTS]) or 0) < 1:
        findings.add(Finding.ROLLOUTS)
    if TURNS in row and not is_number(row[TURNS]):
        findings.add(Finding.TURNS)
    source = row.get("data_source")
    if not (isinstance(source, str) and source.strip()):
        findings.add(Finding.NO_SOURCE)
    return findings


def _whole_number(value: Any) -> int | None:
    """Return the number that verl reads from a value, None if it fails."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def prompt_findings(prompt: Any) -> set[Finding]:
    """Return the findings of one prompt."""
    if isinstance(prompt, str) and prompt.lstrip().startswith(("[", "{")) and _is_json(prompt):
        return {Finding.JSON_PROMPT}
    if not isinstance(prompt, list) or not prompt:
        return {Finding.NO_MESSAGES}
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in prompt):
        return {Finding.BAD_MESSAGE}
    contents = [message.get("content") for message in prompt]
    if any(isinstance(content, list) and not _is_text(content) for content in contents):
        return {Finding.MULTI_MODAL}
    if not all(isinstance(message.get("content"), str | list) or message.get("tool_calls") for message in prompt):
        return {Finding.BAD_MESSAGE}
    if not any(content if isinstance(content, list) else (content or "").strip() for content in contents):
        return {Finding.BLANK_PROMPT}
    unknown = {Finding.UNKNOWN_ROLE} if any(message["role"] not in ROLES for message in prompt) else set()
    return unknown or (set() if prompt[-1]["role"] == "user" else {Finding.LAST_ROLE})


def _is_text(parts: list[Any]) -> bool:
    """Return whether a message's content has only parts with text."""
    return all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def truth_findings(reward_model: Any) -> set[Finding]:
    """Return the findings of one row's ground truth."""
    if not isinstance(reward_model, dict) or "ground_truth" not in reward_model:
        return {Finding.NO_REWARD_MODEL}
    truth = reward_model["ground_truth"]
    if isinstance(truth, datetime.date | datetime.time):
        return {Finding.DATE_TRUTH}
    if not isinstance(truth, str | int | float | Decimal | None):
        return {Finding.ODD_TRUTH}
    if isinstance(truth, float | Decimal) and not math.isfinite(truth):
        return {Finding.ODD_TRUTH}
    truth = read_truth(truth)
    if not truth:
        return {Finding.NO_TRUTH}
    if len(truth) > MAX_ANSWER_CHARS:
        return {Finding.LONG_TRUTH}
    return set(_text_findings(truth))


@cache_of_texts
def _text_findings(truth: str) -> frozenset[Finding]:
    if PLAIN_NUMBER.fullmatch(truth):
        return frozenset()
    if not normalize(truth):
        return frozenset({Finding.EMPTY_TRUTH})
    return frozenset({Finding.NO_ANSWER} if lacks_answer(truth) else ())


@cache_of_texts
def mathematics(truth: str) -> str | None:
    """Return what math-verify compares answers with, None if text decides.

    Words and choices are compared as text; plain numbers are always readable.
    """
    if PLAIN_NUMBER.fullmatch(truth) or number_of(truth) is not None:
        return None
    question = compare_text("?", truth)
    return question.gold if isinstance(question, Question) and number_of(question.gold) is None else None


def prompt_key(prompt: Any) -> str:
    """Return a text that is equal for equal prompts."""
    return json.dumps(prompt, sort_keys=True, default=str)
