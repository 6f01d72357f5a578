# SPDX-License-Identifier: Apache-2.0
"""Trees of a run as files (``treepo.dump``): workers write the trees, the trainer the credit of trajectories."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from recipe.treepo.dumps.lines import TreeOrigin, credit_line, step_folder, tree_line
from recipe.treepo.dumps.writer import DumpWriter, Line
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings

# Field of a trajectory with a dumped tree, for the trainer.
DUMP_FIELD = "tree_dump"


@dataclass(slots=True)
class SampledTree:
    """Tree passed from the agent loop to the dump.

    Attributes:
        tree: Sampled tree, None until the search has ended.
        calls: Engine calls, empty unless ``treepo.dump.calls`` is on.
    """

    tree: Tree | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)


class TreeDump:
    """Dump of the trees of one agent-loop worker."""

    def __init__(self, config: DictConfig, settings: TreePOSettings, decode: Callable[[list[int]], str]) -> None:
        """Make the dump of one worker.

        Args:
            config: Complete configuration.
            decode: Function from token ids to text that keeps special tokens.
        """
        self._keys = settings.dump
        self._settings = _for_people(config, settings)
        self._decode = decode
        self._writer = DumpWriter(self._keys.dir, "worker") if self._keys.dir is not None else None

    def takes(self, *, validate: bool, step: int, number: int) -> bool:
        """Return whether to write the tree of prompt ``number`` within its step or validation."""
        return self._writer is not None and self._keys.takes(validate=validate, step=step, number=number)

    @property
    def report(self) -> dict[str, Any]:
        """Report for the trainer: name of the writer, and its number of failures."""
        return {"writer": self._writer.file_name, "failures": self._writer.failures} if self._writer else {}

    def write(
        self,
        sampled: SampledTree,
        row: Mapping[str, Any],
        outputs: Sequence[AgentLoopOutput],
        *,
        validate: bool,
        number: int,
    ) -> None:
        """Write a tree with scored trajectories.

        Args:
            row: Fields of the data set's row, including ``uid`` and ``global_steps``.
            outputs: The trajectories, in the order of the tree's leaves.
        """
        tree = sampled.tree
        if tree is None or self._writer is None:
            return
        split, step = "val" if validate else "train", int(row["global_steps"])

        def make_line() -> Line:
            origin = TreeOrigin(
                uid=str(row["uid"]),
                step=step,
                split=split,
                number=number,
                data_source=str(row.get("data_source", "")),
                row=_row_number(row),
                prompt=self._decode(tree.prompt_ids),
                ground_truth=_ground_truth(row),
                settings=self._settings,
            )
            rewards = [_reward(output.reward_score, output.extra_fields) for output in outputs]
            return tree_line(tree, origin, rewards, self._decode, sampled.calls)

        self._writer.append_made(step_folder(split, step), make_line)


class CreditRow(NamedTuple):
    """Credit of one trajectory of a training batch.

    Attributes:
        uid: verl's id of its prompt.
        step: Training step at which the prompt was drawn.
        reward: Reward of the trajectory.
        advantages: Advantage of each response token.
        mask: 1 for each trained response token, else 0.
        extra: verl's ``extra_fields``.
    """

    uid: str
    step: int
    reward: float
    advantages: Sequence[float]
    mask: Sequence[int]
    extra: Mapping[str, Any]

    def mean_advantage(self, begin: int, end: int) -> float:
        """Return the mean advantage of the trained tokens in [begin, end), 0 if there are none."""
        trained = [value for value, kept in zip(self.advantages[begin:end], self.mask[begin:end], strict=True) if kept]
        return sum(trained) / max(1, len(trained))


class CreditDump:
    """Dump of the credit of trajectories with a dumped tree, written by the trainer.

    Attributes:
        failures: Number of lines that could not be written, over all processes of the run.
    """

    def __init__(self, folder: str | None) -> None:
        self._writer = DumpWriter(folder, "trainer") if folder is not None else None
        self._failures_of: dict[str, int] = {}

    @property
    def failures(self) -> int:
        return sum(self._failures_of.values()) + (self._writer.failures if self._writer else 0)

    def write(self, rows: Iterable[CreditRow]) -> None:
        """Write one line for each trajectory with a dumped tree."""
        for row in rows:
            dumped = row.extra.get(DUMP_FIELD)
            if not dumped or self._writer is None:
                continue
            before = self._failures_of.get(dumped["writer"], 0)
            self._failures_of[dumped["writer"]] = max(dumped["failures"], before)
            self._writer.append_made(step_folder("train", row.step), partial(_credit_line, row))


def _credit_line(row: CreditRow) -> Line:
    path = row.extra["tree_path"]
    ends = [begin for _, begin in path[1:]] + [len(row.advantages)]
    credit = [(node, row.mean_advantage(begin, end)) for (node, begin), end in zip(path, ends, strict=True)]
    return credit_line(row.uid, path[-1][0], _reward(row.reward, row.extra), credit)


def _reward(reward: float | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``reward`` and its parts."""
    return {**(extra.get("reward_extra_info") or {}), "reward": reward}


def _row_number(row: Mapping[str, Any]) -> int | str | None:
    number = row.get("index")
    return number if number is None or isinstance(number, str) else int(number)


def _ground_truth(row: Mapping[str, Any]) -> str | None:
    reward_model = row.get("reward_model")
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    return None if truth is None else str(truth)


def _for_people(config: DictConfig, settings: TreePOSettings) -> dict[str, Any]:
    """Return the settings that are displayed with a tree."""
    rollout = config.actor_rollout_ref.rollout
    return {
        "model": str(config.actor_rollout_ref.model.path),
        "estimator": str(config.algorithm.adv_estimator),
        "sampler": str(settings.sampler),
        "search": str(settings.search),
        "n": int(rollout.n),
        "depth": settings.depth,
        "segment_length": settings.resolved_segment_length(int(rollout.response_length)),
        "divergence": list(settings.branching.divergence),
        "init_divergence": list(settings.branching.root_children(int(rollout.n))),
        "temperature": float(rollout.temperature),
    }
