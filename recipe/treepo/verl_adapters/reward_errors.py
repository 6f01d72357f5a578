# SPDX-License-Identifier: Apache-2.0
"""Trajectories whose reward failed, and their handling (``treepo.reward_errors``, ``treepo.missing_trajectories``).

The agent loop's worker stores NaN for a failed reward, with the reason (``number_of``). The rewards of all reward
managers, of reward models and of all samplers meet in the trainer. It removes a failed trajectory there, before the
batch is padded. The batch then equals that of a trajectory that was never sampled: it has no gradient and no part in
its group's baseline, with any estimator.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recipe.treepo.settings.schema import MissingPolicy, MissingSettings, RewardErrorPolicy, RewardErrorSettings

logger = logging.getLogger(__name__)
# Maximum characters of a prompt, response or reason in a message.
MOST_CHARACTERS = 120
# Key of the reason in `reward_extra_info`.
REASON = "reward_error"


class RewardError(RuntimeError):
    """Rewards that end the run. The message is for the user."""


class RewardErrors:
    """Policy and counts of one run."""

    def __init__(self, settings: RewardErrorSettings, source: str) -> None:
        """Make the counts of a run.

        Args:
            source: Name of the reward function, for messages.
        """
        self._settings, self._source = settings, source
        self._warned: set[str] = set()
        self._counts = {"reward_errors": 0, "removed_trajectories": 0}

    def removed(
        self,
        prompt_ids: Sequence[str],
        rewards: Sequence[float],
        describe: Callable[[int], str],
        reasons: Callable[[list[int]], list[str | None]],
    ) -> set[int]:
        """Count the failed rewards of a training batch, and return the rows to remove from it.

        Args:
            prompt_ids: Prompt of each row.
            rewards: Reward of each row; NaN or infinity if it failed.
            describe: Function from a row to its prompt and response, for messages.
            reasons: Function from failed rows to the reason of each, None if the reward is all that is known.

        Raises:
            RewardError: if the policy is ``fail_run``, more than ``max_share`` of the rewards failed, or no row would
                remain.
        """
        failed = self._checked(rewards, describe, reasons)
        if self._settings.policy is RewardErrorPolicy.FAIL_PROMPT:
            prompts = {prompt_ids[row] for row in failed}
            removed = {row for row, prompt in enumerate(prompt_ids) if prompt in prompts}
        else:
            removed = set(failed)
        if removed and len(removed) == len(rewards):
            rule = "every prompt of the batch has one, so no trajectory is left"
            raise RewardError(self._message("policy", rule, failed, next(iter(failed)), rewards, describe))
        self._counts["reward_errors"] += len(failed)
        self._counts["removed_trajectories"] += len(removed)
        return removed

    def check(
        self,
        rewards: Sequence[float],
        describe: Callable[[int], str],
        reasons: Callable[[list[int]], list[str | None]],
    ) -> list[int]:
        """Return the rows with a failed reward, and warn of the first of each kind in the run.

        Raises:
            RewardError: if the policy is ``fail_run``, or more than ``max_share`` of the rewards failed.
        """
        return list(self._checked(rewards, describe, reasons))

    def _checked(
        self,
        rewards: Sequence[float],
        describe: Callable[[int], str],
        reasons: Callable[[list[int]], list[str | None]],
    ) -> dict[int, str | None]:
        """Return the rows with a failed reward and their reasons; see :meth:`check`."""
        rows = [row for row, reward in enumerate(rewards) if not math.isfinite(reward)]
        if not rows:
            return {}
        failed, ends = dict(zip(rows, reasons(rows), strict=True)), None
        if self._settings.policy is RewardErrorPolicy.FAIL_RUN:
            ends = "policy", "the run ends"
        elif len(failed) > self._settings.max_share * len(rewards):
            ends = "max_share", "these are too many"
        if ends is not None:
            raise RewardError(self._message(*ends, failed, rows[0], rewards, describe))
        for row, reason in failed.items():
            kind = reason.partition(":")[0] if reason else "returned"
            if kind not in self._warned:
                self._warned.add(kind)
                rule = "further ones of this kind are only counted (treepo/reward_errors)"
                logger.warning("%s", self._message("policy", rule, failed, row, rewards, describe))
        return failed

    def metrics(self) -> dict[str, float]:
        """Return the counts since the last call under ``treepo/``, empty if nothing failed."""
        counts = {f"treepo/{name}": float(count) for name, count in self._counts.items()}
        self._counts = dict.fromkeys(self._counts, 0)
        return counts if any(counts.values()) else {}

    def _message(
        self,
        key: str,
        rule: str,
        failed: Mapping[int, str | None],
        row: int,
        rewards: Sequence[float],
        describe: Callable[[int], str],
    ) -> str:
        found = failed[row] or f"returned {rewards[row]}"
        return (
            f"treepo.reward_errors.{key}={getattr(self._settings, key)}: {len(failed):,} of {len(rewards):,} rewards "
            f"failed; {rule}. {self._source} {found} for {describe(row)}. Return a finite number for every response."
        )


def check_missing(settings: MissingSettings, trained: int, drawn: int) -> None:
    """Check that a batch lacks no more than the allowed share of its trajectories.

    Args:
        trained: Trajectories in the batch.
        drawn: Trajectories that a whole batch has.

    Raises:
        RewardError: if the policy is ``fail_run``.
    """
    if drawn - trained <= settings.max_share * drawn:
        return
    message = (
        f"treepo.missing_trajectories.max_share={settings.max_share}: a batch has {trained:,} of {drawn:,} "
        "trajectories. The log names the failed prompts, requests and rewards."
    )
    if settings.policy is MissingPolicy.FAIL_RUN:
        raise RewardError(message)
    logger.warning("%s", message)


def number_of(reward: Any) -> float | str:
    """Return a reward as a number, or what is wrong with it. NaN and infinity are numbers; the trainer finds them."""
    if reward is None:
        return "returned None"
    try:
        if not isinstance(reward, str | bytes):
            return float(reward)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    return f"returned a {type(reward).__name__}: {excerpt(str(reward))}"


def excerpt(text: str) -> str:
    """Return the beginning of a text, quoted, on one line."""
    return repr(text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}...")


def is_failed(value: Any) -> bool:
    """Return whether a value is a number that is not finite."""
    if value is None or isinstance(value, str):
        return False
    try:
        return not math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def without_failed(values: Sequence[Any]) -> list[Any]:
    """Return values with None for each number that is not finite."""
    return [None if is_failed(value) else value for value in values]


def usable_infos(infos: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the values of a validation without numbers that are not finite.

    ``acc`` is 0 for a trajectory with such a ``reward``, ``score`` or ``acc``. Other values become None, which verl
    leaves out of its means.

    Args:
        infos: Values of each trajectory by name, from verl's ``_validate``.
    """
    usable = {name: without_failed(values) for name, values in infos.items()}
    judged = [infos[name] for name in ("reward", "score", "acc") if name in infos]
    for row, values in enumerate(zip(*judged, strict=True)):
        if any(map(is_failed, values)) and "acc" in infos and infos["acc"][row] is not None:
            usable["acc"][row] = 0.0
    return usable
