# SPDX-License-Identifier: Apache-2.0
"""Trees for tests of dumps and viewer: synthetic ones of a chosen shape, and dumps of them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.treepo.dumps.lines import TreeOrigin, credit_line, tree_line
from recipe.treepo.dumps.writer import DumpWriter
from recipe.treepo.interaction import Reply
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


class Words:
    """A vocabulary of words with random spellings. A token is the number of a word, the most frequent first."""

    def __init__(self, size: int = 30_000, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.texts = [" " + "".join(rng.choices(LETTERS, k=1 + int(rng.expovariate(0.25)))) for _ in range(size)]
        self.weights = [0.0]
        for rank in range(1, size + 1):  # Zipf's law, as running sums
            self.weights.append(self.weights[-1] + 1 / rank)

    def decode(self, token_ids: list[int]) -> str:
        return "".join(self.texts[token] for token in token_ids)

    def segment(self, rng: random.Random, length: int, start: float = 0.0) -> Segment:
        """Return tokens with log-probabilities like a model's: most near 0, some far below."""
        tokens = rng.choices(range(len(self.texts)), cum_weights=self.weights[1:], k=length)
        logprobs = [-min(rng.expovariate(3.0) ** 3, 12.0) for _ in tokens]
        return Segment(tokens, logprobs, length // 2, 3, 4, start, start + length / 50)


def even_tree(words: Words, *, levels: int = 14, segment: int = 512, width: int = 16, seed: int = 0) -> Tree:
    """Return a tree whose paths double until there are ``width``: 191 nodes with the defaults."""
    rng, tree = random.Random(seed), Tree(list(range(100)))
    ends = [0]
    for level in range(levels):
        children = min(2, width // len(ends))
        above, ends = ends, []
        for parent in above:
            for _ in range(children):
                key = tree.nodes[parent].new_child_key()
                part = words.segment(rng, segment, 1_700_000_000 + 11.0 * level)
                ends.append(tree.add(parent, part, key=key).index)
    for end in ends:
        tree.finish(end, FinishReason.DEPTH)
    tree.renumber()
    return tree


def rich_tree(words: Words, *, seed: int = 0, segment: int = 64) -> Tree:
    """Return a tree with all that a picture marks.

    Paths that end early, a fallback inside a segment, a reply, a dropped path with its replacement, one that replaces
    an abandoned path, and one that was left open.
    """
    rng, tree = random.Random(seed), Tree(list(range(312)))

    def add(parent: int, key: str, length: int = segment) -> int:
        started = 1_700_000_000 + tree.nodes[parent].end / 40 + rng.random()
        return tree.add(parent, words.segment(rng, length, started), key=key).index

    def finish(node: int, reason: FinishReason, **more: Any) -> None:
        tree.finish(node, reason, **more)

    first, second = add(0, "0"), add(0, "1")
    answered = add(add(first, "0.0"), "0.0.0", segment // 3)
    finish(answered, FinishReason.ANSWER)
    tree.nodes[answered].partial = True  # the search cut it off behind its answer
    finish(add(add(add(first, "0.1"), "0.1.0"), "0.1.0.0"), FinishReason.DEPTH)
    early = add(second, "1.0", segment - 9)
    tree.end_turn(early)
    reply = tree.add_reply(
        early, [5, 6, 7, 8] * 5, Reply(messages=[{"role": "tool", "content": "4 and <b>no</b> markup"}]), key="1.0+"
    ).index
    finish(add(reply, "1.0+.0", segment // 2), FinishReason.EOS)
    finish(add(reply, "1.0+.1"), FinishReason.INTERACTION, detail="solved")
    finish(add(second, "1.1", 5), FinishReason.EOS, dropped=True)
    finish(add(second, "1.1?", segment // 2), FinishReason.REPETITION)
    finish(add(second, "1.2!", segment // 2), FinishReason.LENGTH)
    add(add(second, "1.3"), "1.3.0", segment // 4)
    # A path that fell back inside 0.1.0, and one from the root.
    point = tree.split(tree.leaves[1], tree.nodes[first].end + segment + segment // 2)
    finish(add(point, "0.1.0~0", segment // 2), FinishReason.ANSWER)
    finish(add(0, "0.0^0", segment * 2), FinishReason.EOS)
    tree.renumber()
    tree.counters.dropped_paths, tree.counters.abandoned_paths, tree.counters.fallbacks = 1, 1, 2
    return tree


def origin(number: int = 0, *, step: int = 10, split: str = "train", **more: Any) -> TreeOrigin:
    values: dict[str, Any] = {
        "uid": f"{split}-{step}-{number}",
        "data_source": "math",
        "row": number,
        "prompt": f"<|user|>What is {number} + 2?<|assistant|>",
        "ground_truth": str(number + 2),
        "settings": {"width": 16, "depth": 14},
    }
    return TreeOrigin(step=step, split=split, number=number, **values | more)


def write_tree(
    folder: Path,
    tree: Tree,
    place: TreeOrigin,
    decode: Callable[[list[int]], str],
    *,
    rewards: list[float] | None = None,
    advantages: bool = True,
) -> None:
    """Dump a tree and the credit of its trajectories.

    The credit of a node is its number / 100, with the sign of the trajectory's reward.
    """
    rewards = [float(number % 2) for number, _ in enumerate(tree.leaves)] if rewards is None else rewards
    parts = [{"reward": reward, "acc": reward} for reward in rewards]
    writer = DumpWriter(folder, "worker")
    assert writer.append(place.folder, *tree_line(tree, place, parts, decode))
    if not advantages:
        return
    trainer = DumpWriter(folder, "trainer")
    for leaf, reward in zip(tree.leaves, parts, strict=True):
        sign = 1 if reward["reward"] > 0 else -1
        credit = [(node, sign * node / 100) for node, _ in tree.path(leaf).spans]
        assert trainer.append(place.folder, *credit_line(place.uid, leaf, reward, credit))
