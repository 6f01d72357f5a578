# SPDX-License-Identifier: Apache-2.0
"""Rules of verl 0.9.1 and this recipe for rows and columns of data files; pure.

A run checks a sample of its rows (`data_files.py`), `python -m recipe.treepo.data_prep.check` all of them.

Sources of the rules:

- verl's RLHFDataset: `prompt`, `extra_info`.
- verl's reward managers: `data_source`, `reward_model.ground_truth`; recipe.treepo.reward refuses a blank one.
- verl's agent loops receive every column as an argument and store it with the samples.
- Trees replace single_turn_agent only.
"""

import json
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from recipe.treepo.answers.compare import compare_text
from recipe.treepo.answers.question import Question
from recipe.treepo.answers.spelling import normalize, number_of
from recipe.treepo.answers.truth import MAX_ANSWER_CHARS, lacks_answer, read_truth
from recipe.treepo.settings.schema import REPLACED_AGENTS

NEEDED = ("prompt", "data_source", "reward_model")
MEDIA = ("images", "videos", "audios")
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
# Arguments and output fields of verl's agent loops; a column of such a name would overwrite them.
ARGUMENTS = ("sampling_params", "trajectory", "trace", "session_id", "validate", "output", "self", "tree_request")
_RESULTS = (
    *("prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "routed_experts", "num_turns"),
    *("metrics", "extra_fields", "teacher_ids", "teacher_logprobs"),
)
RESERVED = (*ARGUMENTS, *_RESULTS)


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
    EMPTY_TRUTH = (Severity.ERROR, "ground truth has only markup: no answer matches it", "drop the row")
    EXTRA_INFO = (Severity.ERROR, "extra_info is not an object", "write fields, or omit the column")
    AGENT = (
        Severity.ERROR,
        f"agent_name is not {' or '.join(REPLACED_AGENTS)}",
        "omit it, or use treepo.sampler=plain",
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


def column_problems(names: Iterable[str]) -> list[str]:
    """Return the problems of a file's columns that make it unusable."""
    names = list(names)
    problems = [f"column {name}: missing. verl needs {', '.join(NEEDED)}." for name in NEEDED if name not in names]
    rule = "verl's agent loops use this name themselves. Rename or drop it."
    problems += [f"column {name}: {rule}" for name in dict.fromkeys(names) if name in RESERVED]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return problems + [f"column {name}: occurs {names.count(name)} times. Keep one." for name in twice]


def row_findings(row: Mapping[str, Any]) -> set[Finding]:
    """Return the findings of one row, without checks that need other rows, a tokenizer or math-verify."""
    findings = prompt_findings(row.get("prompt")) | truth_findings(row.get("reward_model"))
    if any(row.get(column) for column in MEDIA):
        findings.add(Finding.MULTI_MODAL)
    if not isinstance(row.get("extra_info"), dict | None):
        findings.add(Finding.EXTRA_INFO)
    if "agent_name" in row and row["agent_name"] not in REPLACED_AGENTS:
        findings.add(Finding.AGENT)
    source = row.get("data_source")
    if not (isinstance(source, str) and source.strip()):
        findings.add(Finding.NO_SOURCE)
    return findings


def prompt_findings(prompt: Any) -> set[Finding]:
    """Return the findings of one prompt."""
    if isinstance(prompt, str) and prompt.lstrip().startswith(("[", "{")) and _is_json(prompt):
        return {Finding.JSON_PROMPT}
    if not isinstance(prompt, list) or not prompt:
        return {Finding.NO_MESSAGES}
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in prompt):
        return {Finding.BAD_MESSAGE}
    contents = [message.get("content") for message in prompt]
    if any(isinstance(content, list) for content in contents):
        return {Finding.MULTI_MODAL}
    if not all(isinstance(message.get("content"), str) or message.get("tool_calls") for message in prompt):
        return {Finding.BAD_MESSAGE}
    if not any(isinstance(content, str) and content.strip() for content in contents):
        return {Finding.BLANK_PROMPT}
    unknown = {Finding.UNKNOWN_ROLE} if any(message["role"] not in ROLES for message in prompt) else set()
    return unknown or (set() if prompt[-1]["role"] == "user" else {Finding.LAST_ROLE})


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
    if not isinstance(truth, str | int | float | None):
        return {Finding.ODD_TRUTH}
    if isinstance(truth, float) and not math.isfinite(truth):
        return {Finding.ODD_TRUTH}
    truth = read_truth(truth)
    if not truth:
        return {Finding.NO_TRUTH}
    if len(truth) > MAX_ANSWER_CHARS:
        return {Finding.LONG_TRUTH}
    if not normalize(truth):
        return {Finding.EMPTY_TRUTH}
    return {Finding.NO_ANSWER} if lacks_answer(truth) else set()


def takes_mathematics(truth: str) -> bool:
    """Return whether math-verify compares answers with this ground truth.

    Words and choices are compared as text; plain numbers are always readable.
    """
    return number_of(truth) is None and isinstance(compare_text("?", truth), Question)


def prompt_key(prompt: Any) -> str:
    """Return a text that is equal for equal prompts."""
    return json.dumps(prompt, sort_keys=True, default=str)
