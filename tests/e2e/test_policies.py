# SPDX-License-Identifier: Apache-2.0
"""The examples of own policies, in real runs; their effects are read from the dumps."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from helpers.training_run import BATCH, WIDTH, dumped_trees, dumps, train, trajectories
from recipe.treepo.viewer.layout import path_to

WORD = "roughly"


def own(group: str, file: str, name: str) -> tuple[str, str]:
    return f"treepo.{group}.custom.path=examples/{file}.py", f"treepo.{group}.custom.name={name}"


def text_of(tree: dict[str, Any], node: int) -> str:
    """Return the text of a path, from the vocabulary of the dump."""
    tokens = [token for one in path_to(tree["nodes"], node) for token in tree["nodes"][one]["token_ids"]]
    return "".join(tree["vocabulary"][str(token)] for token in tokens)


def right_sums(text: str) -> float:
    """Score a text like the example, word by word."""
    right = total = 0
    for match in re.finditer(r" = (\d+)", text):
        *earlier, left, sign, other = ["", "", "", *re.split(r"\s", text[: match.start()])]
        following = text[match.end() :]
        if not (left.isdecimal() and other.isdecimal() and sign in "+-*") or earlier[-1] in [*"+-*/"]:
            continue
        if not following or re.match(r"[.,]\d", following):
            continue
        a, b = int(left), int(other)
        total += 1
        right += {"+": a + b, "-": a - b, "*": a * b}[sign] == int(match[1])
    return right / total if total else 1.0


@pytest.mark.engine
def test_own_branching_pruning_stopping_and_credit_shape_trees_and_advantages():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = train(
            "run_treepo_qwen0.5b.sh",
            folder,
            "trainer.total_training_steps=2",
            "trainer.save_freq=-1",
            *dumps(folder),
            "treepo.segment_length=16",
            "treepo.depth=8",
            *own("branching", "branch_by_uncertainty", "BranchByUncertainty"),
            *own("score", "prune_wrong_sums", "RightSums"),
            "treepo.score.prune_below=0.5",
            *own("stopping_rules", "stop_at_word", "StopAtWord"),
            f"+treepo.stopping_rules.custom.options.word={WORD}",
            "algorithm.adv_estimator=treepo_custom",
            *own("advantage", "leaf_minus_parent", "LeafMinusParent"),
        )
        trees, rows = dumped_trees(folder), trajectories(folder, 1)
    assert len(steps) == 2 and all(step["actor/grad_norm"] > 0 for step in steps)
    assert len(rows) == BATCH * WIDTH
    pruned = [(tree, node) for tree in trees for node in tree["nodes"] if node["finish_reason"] == "pruned"]
    assert len(pruned) == sum(step["treepo/pruned_paths"] for step in steps) > 0
    for tree, node in pruned:
        assert node["dropped"] and right_sums(text_of(tree, node["index"])) < 0.5
    scored = [(tree, node) for tree in trees for node in tree["nodes"] if node["score"] is not None]
    assert sum(step["treepo/score_calls"] for step in steps) == len(scored) > len(trees) * WIDTH / 2
    for tree, node in scored:
        assert node["score"] == pytest.approx(right_sums(text_of(tree, node["index"])))
    ended = [
        (tree, leaf) for tree in trees for leaf in tree["leaves"] if tree["nodes"][leaf]["finish_reason"] == "custom"
    ]
    assert ended
    for tree, leaf in ended:
        assert WORD in text_of(tree, leaf).split()
    # Another path has the word only if it ended for a reason that is checked before.
    for tree in trees:
        for node in tree["nodes"][1:]:
            if not node["partial"] and node["finish_reason"] is None:
                assert WORD not in text_of(tree, node["index"]).split()
    # No path has more than 4 children, besides those that resume from finished paths.
    for tree in trees:
        for node in tree["nodes"][1:]:
            children = [one for one in tree["nodes"] if one["parent"] == node["index"] and "~" not in one["key"]]
            assert len(children) <= 4
    check_credit(trees)


def check_credit(trees: list[dict[str, Any]]) -> None:
    """Check the dumped advantages: the mean reward below a node minus that below the node where its parent began."""
    checked = 0
    for tree in trees:
        rewards = {one["leaf"]: one["reward"] for one in tree["trajectories"]}
        paths = {leaf: path_to(tree["nodes"], leaf) for leaf in rewards}
        below = {
            node: [rewards[leaf] for leaf, path in paths.items() if node in path]
            for path in paths.values()
            for node in path
        }
        means = {node: sum(values) / len(values) for node, values in below.items()}
        for one in tree["trajectories"]:
            path = paths[one["leaf"]]
            for node, advantage in one["advantages"]:
                # The nodes of an unbranched chain share the credit of its first node.
                place = path.index(node)
                while place > 1 and len(below[path[place - 1]]) == len(below[path[place]]):
                    place -= 1
                expected = means[path[place]] - means[path[place - 1]]
                assert advantage == pytest.approx(expected, abs=1e-5)
                checked += 1
    assert checked > BATCH * WIDTH


FAILS = """
class Fails:
    has_failed = False

    def children(self, paths, room, context):
        if context.step == 2 and not Fails.has_failed:
            Fails.has_failed = True  # one prompt only; the others could go on
            return [room + 1] * len(paths)
        return [1] * len(paths)
"""


@pytest.mark.engine
def test_a_policy_that_goes_wrong_in_a_run_ends_it_with_class_prompt_and_node():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "fails.py").write_text(FAILS)
        with pytest.raises(
            AssertionError, match=r"Fails.children returned .* children, but room for .*\(prompt .*, node "
        ) as caught:
            train(
                "run_treepo_qwen0.5b.sh",
                folder,
                "trainer.total_training_steps=3",
                "trainer.save_freq=-1",
                f"treepo.branching.custom.path={folder}/fails.py",
                "treepo.branching.custom.name=Fails",
            )
        steps = (folder / "logs/metrics.jsonl").read_text().splitlines()
    assert "agent-loop worker" in str(caught.value)
    assert len(steps) <= 2  # the first, and perhaps the configuration
