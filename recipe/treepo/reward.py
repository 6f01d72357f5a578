# SPDX-License-Identifier: Apache-2.0
r"""Score a solution by its final answer: verl's `reward.custom_reward_function` (name `compute_score`).

The answer is the content of the last `\boxed{}`; without any box, the last plain number (option). Text comparison
decides first; the rest goes to math-verify in a worker process under a wall-clock and a memory limit, because
model output is untrusted. verl calls this function from threads of several processes; each process has its own
workers. Options are passed through `reward.custom_reward_function.reward_kwargs`.
"""

import sys
from pathlib import Path
from typing import Any

try:
    from recipe.treepo.answer import BoxState, compare_text, last_boxed, last_number, scan_boxes
    from recipe.treepo.reward_pool import Verdict, get_pool
except ModuleNotFoundError:
    # verl loads this file by its path, also in processes that were started outside the repository.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from recipe.treepo.answer import BoxState, compare_text, last_boxed, last_number, scan_boxes
    from recipe.treepo.reward_pool import Verdict, get_pool

# What verl's reward managers and loaders pass to every reward function; of no use here.
_VERL_KEYS = frozenset(
    {"reward_router_address", "reward_model_tokenizer", "sandbox_fusion_url", "concurrent_semaphore", "memory_limit_mb"}
)
# The keys of what compute_score returns; verl wants the same ones every time.
METRICS = ("score", "acc", "reward_boxed", "reward_too_long", "reward_timeout", "reward_crash")
_OPTIONS = "correct_score, wrong_score, number_fallback, timeout_s, max_answer_chars, workers, memory_mb"


def _check_options(timeout_s: float, max_answer_chars: int, workers: int, memory_mb: int, unknown: set[str]) -> None:
    """Raise one ValueError that names every option out of its range."""
    ranges = {
        "timeout_s": (timeout_s, 0.01, 600),
        "max_answer_chars": (max_answer_chars, 1, 4_000),
        "workers": (workers, 1, 64),
        "memory_mb": (memory_mb, 64, 65_536),
    }
    problems = [
        f"{key}={value!r} is outside {low} to {high}: set it inside that range"
        for key, (value, low, high) in ranges.items()
        if not low <= value <= high
    ]
    problems += [f"unknown option {key!r}: remove it or use one of {_OPTIONS}" for key in sorted(unknown)]
    if problems:
        raise ValueError("reward.custom_reward_function.reward_kwargs: " + "; ".join(problems))


def _gold_answer(ground_truth: Any, data_source: str) -> str:
    """Return the ground truth as text, out of its box if it has one. Raises ValueError where it is blank."""
    gold = "" if ground_truth is None else str(ground_truth).strip()
    if not gold:
        raise ValueError(
            f"reward_model.ground_truth={ground_truth!r} in data source {data_source!r} is blank, so nothing can be "
            "scored against it: drop the row (python -m data_prep does)"
        )
    return last_boxed(gold) or gold if gold.startswith("\\boxed") else gold


def _find_answer(solution: str, number_fallback: bool) -> tuple[str | None, bool]:
    """Return the final answer (None where there is none) and whether it stood in a box."""
    scan = scan_boxes(solution)
    if scan.state is BoxState.COMPLETE:
        return scan.content.strip(), True
    # A box that is empty or was cut off is an attempt that failed: no number is picked in its place.
    if scan.state is BoxState.ABSENT and number_fallback:
        return last_number(solution), False
    return None, False


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    correct_score: float = 1.0,
    wrong_score: float = 0.0,
    number_fallback: bool = True,
    timeout_s: float = 3.0,
    max_answer_chars: int = 1_000,
    workers: int = 2,
    memory_mb: int = 1_024,
    **kwargs: Any,
) -> dict[str, float]:
    r"""Score one solution against its ground truth.

    Args:
        data_source: named in error messages only.
        solution_str: the decoded response, of any length.
        ground_truth: LaTeX, number, text or choice letter, in a box or not. Blank raises ValueError.
        extra_info: not used.
        correct_score, wrong_score: the two values of "score".
        number_fallback: take the last plain number where the response opens no box at all.
        timeout_s: seconds of wall clock for math-verify, 0.01 to 600, not counting the start of a worker (about
            1 s, once) and the wait for a free one. Past it the answer is wrong and the worker is replaced.
        max_answer_chars: longer answers are wrong without being parsed, 1 to 4,000 characters. A longer
            ground truth can only be matched by text.
        workers: worker processes per process that scores, 1 to 64, about 75 MB each; the second starts when the
            first is busy.
        memory_mb: address space of a worker beyond what its imports take, 64 to 65,536 MiB. Ordinary answers
            need some 10 MiB; 1,024 leaves room and keeps eight reward processes from filling a machine.
        kwargs: what verl's reward managers add; anything else raises ValueError.

    Returns:
        "score"; and as 0.0 or 1.0: "acc" (correct), "reward_boxed" (answer stood in a box), "reward_too_long",
        "reward_timeout", "reward_crash". The keys are the same in every return, as verl needs.
    """
    del extra_info
    _check_options(timeout_s, max_answer_chars, workers, memory_mb, set(kwargs) - _VERL_KEYS)
    gold = _gold_answer(ground_truth, data_source)
    answer, boxed = _find_answer(solution_str, number_fallback)
    too_long = answer is not None and len(answer) > max_answer_chars
    equal: bool | None = False
    verdict = None
    if answer is not None and not too_long:
        equal = compare_text(answer, gold)
        if equal is None and len(gold) <= max_answer_chars:
            pool = get_pool(workers=workers, memory_mb=memory_mb)
            verdict = pool.verify(gold, answer, timeout_s=timeout_s)
            equal = verdict is Verdict.EQUAL
    return {
        "score": float(correct_score if equal else wrong_score),
        "acc": float(bool(equal)),
        "reward_boxed": float(boxed),
        "reward_too_long": float(too_long),
        "reward_timeout": float(verdict is Verdict.TIMEOUT),
        "reward_crash": float(verdict is Verdict.CRASH),
    }
