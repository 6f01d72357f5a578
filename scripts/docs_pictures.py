# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of docs/trees.md with the viewer, from trees of the real search over a scripted engine.

Command: ``python scripts/docs_pictures.py [FOLDER]``.
"""

import asyncio
import re
import sys
import tempfile
from collections.abc import Set
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from recipe.treepo.advantages.credit import subgroup_advantages
from recipe.treepo.advantages.forest import build_forest
from recipe.treepo.advantages.options import AdvantageOptions
from recipe.treepo.dumps.lines import TreeOrigin, credit_line, tree_line
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.dumps.writer import DumpWriter
from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.viewer.layout import layout
from recipe.treepo.viewer.svg import tree_svg

FOLDER = Path(__file__).resolve().parents[1] / "docs/pictures"
WIDTH = 860  # pixels
SEGMENT = 10  # tokens
PROMPT = "Solve 3x + 5 = 20."
PROMPT_TOKENS = 12
# Texts of the segments by level, and of the last one; each text follows the name of its segment.
WORDS = ("Subtract 5", "3x = 15", "Divide by 3", "Check 3 * 9")
RIGHT, WRONG = "\\boxed{5}", "\\boxed{9}"

TreeLine = dict[str, Any]


class ScriptedEngine:
    """Engine that writes whole segments, each with its name, and ends paths at scripted segments.

    The children of the root are A, B, ..., those of A are AA, AB, ...; AB~ resumes from the path that ended with AB.

    Args:
        right: Names of the segments that end with the right answer.
        wrong: Names of the segments that end with a wrong answer.
    """

    def __init__(self, right: Set[str], wrong: Set[str]) -> None:
        self._answers = dict.fromkeys(right, RIGHT) | dict.fromkeys(wrong, WRONG)
        self._texts = [""]  # by token

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """Write segments until the path ends or has ``max_tokens`` more tokens."""
        name, tokens = name_of(branch), list[int]()
        number = (len(input_ids) - PROMPT_TOKENS) // SEGMENT
        while len(tokens) < max_tokens:
            answer = self._answers.get(name)
            tokens += self._segment(f"{name} {answer or WORDS[number]}")
            if answer is not None:
                break
            name, number = f"{name}A", number + 1
        return Segment(tokens, [-0.5] * len(tokens))

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of tokens."""
        return "".join(self._texts[token] for token in token_ids)

    def _segment(self, text: str) -> list[int]:
        """Return a segment whose last token holds the whole text."""
        if text not in self._texts:
            self._texts.append(text)
        return [0] * (SEGMENT - 1) + [self._texts.index(text)]


def name_of(branch: str) -> str:
    """Return the letters of a branch, such as AB for ``0.1`` and AB~ for ``0.1~0``."""
    parts = re.findall(r"(?:^|\.)(\d+)|(~)", branch)
    return "".join(mark or chr(ord("A") + int(number)) for number, mark in parts)


def grow(right: Set[str], wrong: Set[str] = frozenset(), *, width: int = 8, depth: int = 4, **rules: Any) -> TreeLine:
    """Grow a tree and return it as the viewer reads it, with rewards and advantages of the estimator ``treepo``."""
    engine = ScriptedEngine(right, wrong)
    stopping = StoppingRules(
        order=(FinishReason.ANSWER, FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH),
        eos_token_ids=frozenset(),
        response_length=depth * SEGMENT,
        depth=depth,
        decode=engine.decode,
    )
    shape = SearchShape(width=width, segment_length=SEGMENT, branching=BranchingRules(init_divergence=(2, 2), **rules))
    tree = asyncio.run(grow_tree([0] * PROMPT_TOKENS, engine=engine, shape=shape, stopping=stopping, seed=0))
    paths = [tree.path(leaf).spans for leaf in tree.leaves]
    rewards = [float(RIGHT in engine.decode(tree.path(leaf).response_ids)) for leaf in tree.leaves]
    forest = build_forest(["prompt"] * width, paths).merge_chains()
    rewards_T = np.zeros(width)
    rewards_T[forest.trajectory_P] = rewards
    advantages = subgroup_advantages(forest, rewards_T, AdvantageOptions())[forest.trajectory_P]
    origin = TreeOrigin(
        uid="prompt",
        step=1,
        split="example",
        number=1,
        data_source="docs",
        row=None,
        prompt=PROMPT,
        ground_truth="5",
        settings={},
    )
    parts = [{"reward": reward, "acc": reward} for reward in rewards]
    with tempfile.TemporaryDirectory() as folder:
        writer = DumpWriter(folder, "docs")
        writer.append(origin.folder, *tree_line(tree, origin, parts, engine.decode))
        for leaf, path, reward, advantage in zip(tree.leaves, paths, parts, advantages.tolist(), strict=True):
            credit = [(node, advantage) for node, _ in path]
            writer.append(origin.folder, *credit_line(origin.uid, leaf, reward, credit))
        dump = Dump(Path(folder))
        dump.refresh()
        return dump.load(dump.trees()[0])


def with_numbers(tree: TreeLine) -> TreeLine:
    """Return a tree whose boxes show the mean reward of their group, or the advantage at the end of a path."""
    texts = {}
    for box in layout(tree).boxes:
        name = name_of(tree["nodes"][box.node]["key"])
        words, value = ("advantage", box.advantage) if box.group.size == 1 else ("mean reward", box.group.mean)
        texts[box.node] = f"{name}: {words} {Fraction(value or 0).limit_denominator(1000)}"
    return {**tree, "nodes": [node | {"text": texts.get(node["index"], "")} for node in tree["nodes"]]}


def pictures() -> dict[str, str]:
    """Return the pictures by file name."""
    fallback = grow({"AB", "BB", "AB~AA"}, {"AA"}, max_divergence=2)
    advantages = grow({"BB"}, {"AA", "AB", "BA"}, width=4, depth=2)
    return {
        "branching.svg": tree_svg(grow({"AAAA", "AABA", "ABBA", "BABA"}), width=WIDTH),
        "early_end.svg": tree_svg(grow({"AB", "AAAA", "AABA", "BABA"}), width=WIDTH),
        "fallback.svg": tree_svg(fallback, width=WIDTH),
        "early_ends.svg": tree_svg(grow({"A", "BCBA"}, {"BB", "BAA"}), width=WIDTH),
        "advantages.svg": tree_svg(with_numbers(advantages), color_by="advantage", width=WIDTH),
    }


def main() -> None:
    """Write the pictures into the folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures().items():
        (folder / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
