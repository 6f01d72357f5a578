# SPDX-License-Identifier: Apache-2.0
r"""Score a solution by its final answer: verl's `reward.custom_reward_function` (name `compute_score`).

The answer is the content of the last `\boxed{}` behind the model's thoughts. Without any box it is the value that the
text states, unless `require_box` is set. Text comparison decides first. math-verify decides the rest in worker
processes with a wall-clock and a memory limit, because model output is untrusted. verl calls this function from threads
of several processes; each process has its own workers. Options are keys of
`reward.custom_reward_function.reward_kwargs` (docs/how_to/reward.md).
"""

import inspect
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from recipe.treepo import answers
except ModuleNotFoundError:
    # verl loads this file by its path, even in processes started outside the repository.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from recipe.treepo import answers
if Path(__file__).resolve().parts[-3:-1] == ("recipe", "treepo") and (
    Path(answers.__file__).resolve().parents[1] != Path(__file__).resolve().parent
):
    # Otherwise the other copy's modules would score; verl's plugin may already have imported them.
    raise ImportError(
        f"reward.custom_reward_function.path={__file__}: Python imports recipe.treepo from another folder, "
        f"{Path(answers.__file__).resolve().parents[1]}. Use path=pkg://recipe.treepo.reward, or install the copy at "
        "that path."
    )
from recipe.treepo.answers.boxes import BoxState, scan_boxes
from recipe.treepo.answers.compare import compare_text
from recipe.treepo.answers.question import Question
from recipe.treepo.answers.spelling import normalize
from recipe.treepo.answers.statements import stated_answer
from recipe.treepo.answers.thinking import FIELD, Thinking, read_thinking
from recipe.treepo.answers.truth import MAX_ANSWER_CHARS, read_truth
from recipe.treepo.sandbox.verifier import Verdict, get_pool

# Arguments that verl's reward managers and loaders pass to every reward function; unused here.
_VERL_KEYS = frozenset(
    {"reward_router_address", "reward_model_tokenizer", "sandbox_fusion_url", "concurrent_semaphore", "memory_limit_mb"}
)
# Keys of every result of compute_score; verl needs the same ones each time.
METRICS = ("score", "acc", "reward_boxed", "reward_too_long", "reward_timeout", "reward_crash")
_NUMBERS = ("correct_score", "wrong_score", "no_box_score")
_RANGES = {"timeout_s": (0.01, 600), "max_answer_chars": (1, 4_000), "workers": (1, 64), "memory_mb": (64, 65_536)}


def option_problems(options: Mapping[str, Any]) -> list[tuple[str, Any, str, str]]:
    """Check options of `compute_score`; return (option, value, violated rule, remedy) for each problem."""
    problems = []
    values = _DEFAULTS | dict(options)
    for key in sorted(set(options) - set(_DEFAULTS)):
        problems.append((key, options[key], "unknown option", f"Remove it, or use one of {', '.join(_DEFAULTS)}."))
    for key, (low, high) in _RANGES.items():
        whole = isinstance(_DEFAULTS[key], int)
        if (
            not _is_number(values[key])
            or not low <= values[key] <= high
            or (whole and not isinstance(values[key], int))
        ):
            kind = "a whole number" if whole else "a number"
            problems.append((key, values[key], f"must be {kind} from {low} to {high}", f"Default: {_DEFAULTS[key]}."))
    if not isinstance(values["require_box"], bool):
        problems.append(("require_box", values["require_box"], "must be true or false", "Default: false."))
    if values["thinking"] is not None:
        try:
            read_thinking(values["thinking"])
        except ValueError as error:
            problems.append(("thinking", values["thinking"], str(error), "Default: null."))
    right, wrong, no_box = (values[key] for key in _NUMBERS)
    for key in _NUMBERS:
        if not _is_number(values[key]) and not (key == "no_box_score" and no_box is None):
            problems.append((key, values[key], "must be a finite number", f"Default: {_DEFAULTS[key]}."))
    if _is_number(right) and _is_number(wrong) and right <= wrong:
        rule = f"must be more than wrong_score={wrong}"
        problems.append(("correct_score", right, rule, f"Use correct_score={wrong + 1}, for instance."))
    if _is_number(no_box) and _is_number(wrong) and no_box > wrong:
        rule = f"must not exceed wrong_score={wrong}; otherwise omitting the box is rewarded"
        problems.append(("no_box_score", no_box, rule, f"Use no_box_score={wrong}, or less."))
    return problems


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _check_options(options: dict[str, Any]) -> None:
    """Raise one ValueError that names every problem."""
    problems = option_problems(options)
    if problems:
        lines = "; ".join(f"{key}={value!r}: {rule}. {remedy}" for key, value, rule, remedy in problems)
        raise ValueError(f"reward.custom_reward_function.reward_kwargs: {lines}")


def _gold_answer(ground_truth: Any, data_source: str) -> str:
    """Return the ground truth as text, without a box and, as in GSM8K, only the part after the last ####.

    Raises:
        ValueError: if it is blank or only markup, or neither text nor a finite number.
    """
    gold = read_truth(ground_truth)
    is_infinite = isinstance(ground_truth, float) and math.isinf(ground_truth)
    if is_infinite or not normalize(gold[:MAX_ANSWER_CHARS]):
        is_nan = isinstance(ground_truth, float) and math.isnan(ground_truth)  # a missing value of a table
        is_blank = is_nan or isinstance(ground_truth, str | None)
        rule = "must not be blank" if is_blank else "must be text or a finite number"
        raise ValueError(
            f"reward_model.ground_truth={ground_truth!r}: {rule} (data source {data_source!r}). "
            "Drop the row (python -m recipe.treepo.data_prep does)."
        )
    return gold


def thinking_of(extra_info: Mapping[str, Any] | None, option: Any = None) -> Thinking:
    """Return the tags of thoughts in a response.

    Args:
        extra_info: Fields of the row, to which training and evaluation add what they know about the response.
        option: Option `thinking` of `compute_score`, for responses about which nothing is known.
    """
    known = (extra_info or {}).get(FIELD, option)
    return Thinking() if known is None else read_thinking(known)


def find_answer(solution: str, require_box: bool, thinking: Thinking) -> tuple[str | None, bool]:
    """Return the final answer (None if there is none) and whether it was in a box."""
    visible = thinking.visible(solution)
    if visible is None:
        return None, False
    scan = scan_boxes(visible)
    if scan.state is BoxState.COMPLETE:
        return scan.content.strip(), True
    # An empty or unclosed box is a failed attempt: no statement replaces it.
    if scan.state is BoxState.ABSENT and not require_box:
        return stated_answer(visible), False
    return None, False


def answers_agree(
    answer: str,
    gold: str,
    *,
    max_chars: int = 1_000,
    timeout_s: float = 3.0,
    workers: int = 2,
    memory_mb: int = 1_024,
) -> tuple[bool, Verdict | None]:
    """Return whether two answers agree, and math-verify's verdict (None if text decided).

    Answers of more than `max_chars` characters agree by text only. `compute_score` describes the options.
    """
    equal = compare_text(answer, gold)
    if not isinstance(equal, Question):
        return equal, None
    if max(len(answer), len(gold)) > max_chars:
        return False, None
    pool = get_pool(workers=workers, memory_mb=memory_mb)
    verdict = pool.verify(equal.gold, equal.answer, timeout_s=timeout_s)
    return verdict is Verdict.EQUAL, verdict


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    correct_score: float = 1.0,
    wrong_score: float = 0.0,
    no_box_score: float | None = None,
    require_box: bool = False,
    timeout_s: float = 3.0,
    max_answer_chars: int = 1_000,
    workers: int = 2,
    memory_mb: int = 1_024,
    thinking: Mapping[str, Any] | str | bool | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one solution against its ground truth.

    Args:
        data_source: Name of the data set, only for error messages.
        solution_str: Decoded response, of any length.
        ground_truth: LaTeX, number, text or choice letter, with or without a box; for a solution in GSM8K's form, the
            part after the last ####. Anything else, and a blank one, raises ValueError.
        extra_info: Fields of the row; `treepo_thinking`, which training adds, has the form of `thinking`.
        correct_score: ``score`` of a right answer.
        wrong_score: ``score`` of a wrong answer.
        no_box_score: "score" of a response without a complete box, right or wrong; at most wrong_score. None: the
            score of any other response.
        require_box: Whether an answer outside a box is wrong. False: the stated value counts if no box is opened.
        timeout_s: Wall-clock limit of math-verify, 0.01 to 600 seconds; excludes the start of a worker (about 1 s,
            once) and the wait for a free one. After it, the answer is wrong.
        max_answer_chars: Length limit for parsing, 1 to 4,000 characters. Longer answers are right only if they are the
            same text as the ground truth. A longer ground truth is compared by text only.
        workers: Worker processes per process that scores, 1 to 64, about 75 MB each; the second starts when the first
            is busy.
        memory_mb: Address space for one answer beyond a worker's imports, 64 to 65,536 MiB. Ordinary answers need about
            10 MiB; 1,024 leaves room and keeps eight reward processes from filling a machine.
        thinking: Tags of thoughts, in which no answer counts, unless `extra_info` has them: {open, close, opened},
            each with a default (<think>, </think>, false). opened: each prompt ends with the opening tag. "off" or
            False: no tags. None: the defaults.
        kwargs: Arguments that verl's reward managers add; anything else raises ValueError.

    Returns:
        "score"; and as 0.0 or 1.0: "acc" (correct), "reward_boxed" (the answer was in a box), "reward_too_long",
        "reward_timeout", "reward_crash". Every result has the same keys, as verl requires.
    """
    options = {key: value for key, value in kwargs.items() if key not in _VERL_KEYS}
    _check_options(
        options
        | {"correct_score": correct_score, "wrong_score": wrong_score, "no_box_score": no_box_score}
        | {"require_box": require_box, "timeout_s": timeout_s, "max_answer_chars": max_answer_chars}
        | {"workers": workers, "memory_mb": memory_mb, "thinking": thinking}
    )
    gold = _gold_answer(ground_truth, data_source)
    answer, boxed = find_answer(solution_str, require_box, thinking_of(extra_info, thinking))
    too_long = answer is not None and len(answer) > max_answer_chars
    equal, verdict = too_long and answer == gold, None
    if answer is not None and not too_long:
        equal, verdict = answers_agree(
            answer, gold, max_chars=max_answer_chars, timeout_s=timeout_s, workers=workers, memory_mb=memory_mb
        )
    score = correct_score if equal else wrong_score
    if no_box_score is not None and not boxed:
        score = no_box_score
    return {
        "score": float(score),
        "acc": float(equal),
        "reward_boxed": float(boxed),
        "reward_too_long": float(too_long),
        "reward_timeout": float(verdict is Verdict.TIMEOUT),
        "reward_crash": float(verdict is Verdict.CRASH),
    }


# Default values of the options.
_DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(compute_score).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}
