# SPDX-License-Identifier: Apache-2.0
"""Second implementation of the advantages of ``advantages/credit.py``: the formulas as recursion and plain sums.

Shares only the names of options with the code under test.
"""

import statistics
from dataclasses import dataclass, field
from math import sqrt

from hypothesis import strategies as st


@dataclass
class Span:
    """Tokens between two branch points, or a segment: its start, and the trajectories through it."""

    begin: int
    trajectories: list[int]
    children: list["Span"] = field(default_factory=list)


def grow(trajectories: list[int], paths: dict[int, list], depth: int, begin: int) -> Span:
    span, by_node = Span(begin, trajectories), {}
    for trajectory in trajectories:
        if depth < len(paths[trajectory]):
            by_node.setdefault(paths[trajectory][depth][0], []).append(trajectory)
    for members in by_node.values():
        span.children.append(grow(members, paths, depth + 1, paths[members[0]][depth][1]))
    return span


def merge(span: Span) -> Span:
    """Merge sole children into their parents."""
    while len(span.children) == 1:
        span = Span(span.begin, span.trajectories, span.children[0].children)
    return Span(span.begin, span.trajectories, [merge(child) for child in span.children])


def trees(prompts: list[str], paths: list[list], chains: str) -> tuple[list[Span], list[int]]:
    """Return the tree of each prompt, and for each row the first row with the same trajectory."""
    first, seen = [], {}
    for row, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
        first.append(seen.setdefault((prompt, tuple(map(tuple, path))), row) if path else row)
    roots = []
    for prompt in sorted(set(prompts)):
        members = sorted({first[row] for row, name in enumerate(prompts) if name == prompt})
        root = grow(members, {row: paths[row] or [(-1 - row, 0)] for row in members}, 0, 0)
        if chains == "distinct":
            root.children = [merge(child) for child in root.children]
        roots.append(root)
    return roots, first


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def subgroup(rewards, groups: list[list[int]], row: int, options: dict, aggregation: str, fewest: int) -> float:
    total = weights = 0.0
    used = []
    for depth, group in enumerate(groups):
        equal = len({rewards[member] for member in group}) == 1
        if depth == 0:
            counts = options["root_group"]
        else:
            counts = len(group) >= fewest and (options["equal_groups"] or not equal)
            counts = counts and (options["chains"] == "published" or (group not in used and group != groups[0]))
        used.append(group)
        if counts:
            baseline = 0.0 if len(group) < fewest else mean(rewards[member] for member in group)
            weight = len(group) if aggregation == "group_size" else 1
            total += weight * (rewards[row] - baseline)
            weights += weight
    return total / weights if weights else 0.0


def leaf_values(root: Span, rewards, options: dict, aggregation: str, fewest: int = 2) -> dict[int, float]:
    """Return the advantage of each trajectory; groups below the root count from ``fewest`` members on."""
    values = {}

    def visit(span: Span, groups: list[list[int]]) -> None:
        groups = [*groups, span.trajectories]
        for child in span.children:
            visit(child, groups)
        if not span.children:
            (row,) = span.trajectories
            values[row] = subgroup(rewards, groups, row, options, aggregation, fewest)

    visit(root, [])
    return values


def recursive_value(span: Span, leaves: dict[int, float]) -> float:
    if not span.children:
        return leaves[span.trajectories[0]]
    return mean(recursive_value(child, leaves) for child in span.children)


def path_to(root: Span, row: int) -> list[Span]:
    path = [root]
    while path[-1].children:
        path.append(next(child for child in path[-1].children if row in child.trajectories))
    return path


def credits_of(root: Span, row: int, rewards, estimator: str, options: dict) -> list[tuple[int, float]]:
    """Return (begin, credit) for each span of a trajectory."""
    path = path_to(root, row)
    lone = len(root.trajectories) == 1
    result = []
    for depth, (parent, span) in enumerate(zip(path, path[1:], strict=False)):
        baseline_is_zero = depth == 0 and lone
        if estimator == "treepo":
            credit = leaf_values(root, rewards, options, options["aggregation"])[row]
        elif estimator == "treepo_segment":
            published = options["chains"] == "published"
            leaves = leaf_values(root, rewards, options, "group_size", 1 if published else 2)
            above = 0.0 if baseline_is_zero or (published and depth == 0) else recursive_value(parent, leaves)
            eta = options["parent_decay"] ** (len(path) - 1 - depth)
            credit = recursive_value(span, leaves) - eta * above
            if not baseline_is_zero and len({rewards[member] for member in parent.trajectories}) == 1:
                credit = 0.0
        elif estimator == "treerl":
            own, above, top = (mean(rewards[i] for i in node.trajectories) for node in (span, parent, root))
            if lone:
                top, above = 0.0, 0.0 if depth == 0 else above
            credit = ((own - top) + (own - above)) / sqrt(len(span.trajectories))
        else:
            leaves = {member: rewards[member] for member in root.trajectories}
            siblings = [recursive_value(child, leaves) for child in parent.children]
            center = 0.0 if baseline_is_zero else mean(siblings)
            scale = 1.0 if baseline_is_zero else (statistics.stdev(siblings) if len(siblings) > 1 else 0.0)
            credit = recursive_value(span, leaves) - center
            if options["divide_by_std"]:
                credit /= scale + 1e-6
        result.append((span.begin, credit))
    return result


def token_credits(prompts, paths, rewards, length: int, estimator: str, options: dict) -> list[list[float]]:
    """Return the credit of each token of each row, as if each row had ``length`` tokens."""
    roots, first = trees(prompts, paths, options["chains"])
    root_of = {row: root for root in roots for row in root.trajectories}
    rows = []
    for row in range(len(prompts)):
        spans = credits_of(root_of[first[row]], first[row], rewards, estimator, options)
        rows.append([[credit for begin, credit in spans if begin <= token][-1] for token in range(length)])
    return rows


@st.composite
def forests(draw):
    """Draw prompts with random trees: uneven, with chains and single paths, rows missing, repeated, without a path.

    Returns prompt and path of each row, one reward per row (equal for equal trajectories), and tokens of each row.
    """
    random = draw(st.randoms(use_true_random=False))
    rows = []
    for prompt in "abc"[: random.randint(1, 3)]:
        numbers, leaves = iter(random.sample(range(1, 1000), 200)), []

        def branch(path, begin, depth, numbers=numbers, leaves=leaves):
            children = random.choice([0, 1, 1, 2, 2, 3]) if depth < 6 and len(leaves) < 20 else 0
            if path and not children:
                leaves.append((path, begin))
            for _ in range(children or (0 if path else 1)):
                branch([*path, (next(numbers), begin)], begin + random.randint(1, 3), depth + 1)

        branch([], 0, 0)
        kept = random.sample(leaves, random.randint(1, len(leaves)))
        kept += [([], random.randint(1, 5)) for _ in range(random.choice([0, 0, 0, 1, 2]))]
        scale = random.choice([[1.0], [0.0, 1.0], [-1.0, 1.0], [-1.0, 0.0, 0.25, 1.0]])
        scored = [(prompt, path, random.choice(scale), tokens) for path, tokens in kept]
        repeated = [row for row in scored if row[1] and random.random() < 0.15]
        rows += scored + repeated
    random.shuffle(rows)
    return [list(column) for column in zip(*rows, strict=True)]
