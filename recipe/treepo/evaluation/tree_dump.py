# SPDX-License-Identifier: Apache-2.0
"""Dump the trees of an evaluation for the first problems of each data set (``treepo.dump``)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recipe.treepo.dumps.lines import TreeOrigin, step_folder, tree_line
from recipe.treepo.dumps.writer import DumpWriter, Line
from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.records import Trajectory
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.search.tree import Tree


class EvaluationDump:
    """Writer of the trees of all runs of an evaluation."""

    def __init__(self, folder: str, decode: Callable[[list[int]], str], settings: Mapping[str, Any]) -> None:
        """Open the dump.

        Args:
            decode: Function from token ids to text, special tokens included.
            settings: Settings of the evaluation, for display.
        """
        self._writer = DumpWriter(folder, "evaluation")
        self._decode, self._settings = decode, settings

    def write(self, run: Run, problem: EvaluationProblem, tree: Tree, trajectories: Sequence[Trajectory]) -> None:
        """Write a scored tree, unless its problem is beyond ``treepo.dump.prompts``."""
        most = run.settings.dump.prompts
        if most is not None and problem.row >= most:
            return
        split = run.file.removesuffix(".jsonl")

        def make_line() -> Line:
            origin = TreeOrigin(
                uid=f"{problem.data_source}/{problem.row}",
                step=0,
                split=split,
                number=problem.row,
                data_source=problem.data_source,
                row=problem.row,
                prompt=self._decode(problem.prompt_ids),
                ground_truth=str(problem.fields["reward_model"]["ground_truth"]),
                settings={
                    **self._settings,
                    "run": run.name,
                    "n": run.n,
                    "depth": run.settings.depth,
                    "divergence": list(run.settings.branching.divergence),
                },
            )
            rewards = [{"reward": one.score, "acc": one.acc, "answer": one.answer} for one in trajectories]
            return tree_line(tree, origin, rewards, self._decode)

        self._writer.append_made(step_folder(split, 0), make_line)
