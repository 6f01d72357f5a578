# SPDX-License-Identifier: Apache-2.0
"""Fold token sequences into prefix trees, so that a model computes each shared token once. Pure numpy.

Suffixes of the axes: ``_S`` sequences, ``_T`` tokens of all sequences, concatenated, ``_U`` unique tokens, in the order
of the model's input, ``_R`` logit rows.

Two tokens are one unique token if they are equal and have equal prefixes. Unique tokens are in depth-first order, so
the descendants of a token follow it without gaps. Token ``j`` is an ancestor of token ``i``, or ``i`` itself, exactly
if ``j <= i < end_U[j]``. Sequences without a common prefix are separate trees, side by side.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np


@dataclass(frozen=True)
class PrefixOrder:
    """Sequences in sorted order, so that those with a common prefix are adjacent.

    Attributes:
        order_S: Numbers of the sequences, in sorted order.
        length_S: Number of tokens of each, in sorted order.
        shared_S: Length of the prefix that each shares with the one before it, in sorted order; 0 for the first.
    """

    order_S: np.ndarray
    length_S: np.ndarray
    shared_S: np.ndarray


@dataclass(frozen=True)
class Packing:
    """Prefix trees packed in a row.

    Attributes:
        token_U: Ids of the unique tokens.
        depth_U: Number of ancestors of each.
        parent_U: Parent of each; -1 for the first token of a sequence.
        end_U: First token after the descendants of each.
        unique_T: Unique token of each token of each sequence; sequences are in input order.
    """

    token_U: np.ndarray
    depth_U: np.ndarray
    parent_U: np.ndarray
    end_U: np.ndarray
    unique_T: np.ndarray


def prefix_order(sequences: Sequence[np.ndarray]) -> PrefixOrder:
    """Sort sequences of token ids by their tokens.

    Args:
        sequences: Non-empty, one-dimensional arrays of non-negative ids.
    """
    # Big-endian bytes sort like the numbers.
    keys = [np.ascontiguousarray(tokens, dtype=">u4").tobytes() for tokens in sequences]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    length = np.array([len(sequences[number]) for number in order], dtype=np.int64)
    shared = np.zeros(len(order), dtype=np.int64)
    for place in range(1, len(order)):
        shared[place] = common_length(sequences[order[place - 1]], sequences[order[place]])
    return PrefixOrder(np.array(order, dtype=np.int64), length, shared)


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """Return the length of the common prefix of two sequences."""
    shorter = min(len(one), len(other))
    different = one[:shorter] != other[:shorter]
    return int(different.argmax()) if different.any() else shorter


def pack(sequences: Sequence[np.ndarray]) -> Packing:
    """Fold sequences into prefix trees; ``sequences`` as in :func:`prefix_order`."""
    ordered = prefix_order(sequences)
    unique = int((ordered.length_S - ordered.shared_S).sum())
    token, depth, parent, end = (np.empty(unique, dtype=np.int64) for _ in range(4))
    path, paths, begin = np.empty(0, dtype=np.int64), {}, 0
    for number, length, shared in zip(ordered.order_S, ordered.length_S, ordered.shared_S, strict=True):
        end[path[shared:]] = begin
        added = np.arange(begin, begin + length - shared)
        path = np.concatenate([path[:shared], added])
        token[added], depth[added] = sequences[number][shared:], np.arange(shared, length)
        parent[path[1:]], parent[path[0]] = path[:-1], -1
        paths[int(number)] = path
        begin += length - shared
    end[path] = begin
    return Packing(token, depth, parent, end, np.concatenate([paths[number] for number in range(len(sequences))]))


def chains(packing: Packing) -> tuple[list[int], list[list[int]]]:
    """Divide unique tokens into chains: maximal runs of tokens without a branch.

    Returns:
        Number of tokens of each chain, in the order of the unique tokens; and the chains above each chain, from the
        root down.
    """
    count, parent_U = len(packing.token_U), packing.parent_U
    children_U = np.bincount(parent_U[parent_U >= 0], minlength=count)
    # A token continues the chain of the token before it if that token is its parent and has no other child.
    goes_on_U = (parent_U == np.arange(count) - 1) & (parent_U >= 0)
    goes_on_U[1:] &= children_U[:-1] == 1
    begins = np.flatnonzero(~goes_on_U)
    chain_U = np.cumsum(~goes_on_U) - 1
    paths: list[list[int]] = []
    for begin in begins.tolist():
        above = int(parent_U[begin])
        paths.append([] if above < 0 else [*paths[chain_U[above]], int(chain_U[above])])
    return np.diff([*begins.tolist(), count]).tolist(), paths


@dataclass(frozen=True, slots=True)
class CallCost:
    """Cost of one attention call, in pairs of a query and a key.

    Attributes:
        call: Fixed cost.
        key: Cost per key above the queries, which the call copies.
    """

    call: float
    key: float

    def of(self, queries: int, above: int) -> float:
        """Return the cost of a call with the queries' own keys and ``above`` keys of their common ancestors."""
        return self.call + above * self.key + queries * (above + queries)


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """Queries that attend in one call: to all tokens of the chains above, and to each other as the tree allows.

    Attributes:
        chains: Chains of the queries.
        above: Chains above all of them, from the root down.
    """

    chains: range
    above: list[int]


def attention_calls(packing: Packing, cost: CallCost) -> list[AttentionCall]:
    """Divide unique tokens into attention calls of the least total cost.

    A call takes one chain, all that is below a chain, or both. Chains waste no pairs, but each copies the keys above
    it, so below a long prefix many short chains cost more than one call for all of them. Trees side by side are below
    a common root without tokens.

    Returns:
        The calls in the order of their queries, which are all unique tokens.
    """
    sizes, paths = chains(packing)
    begins = [0, *accumulate(sizes)]
    # First chain after all that is below each chain; the last entry is the common root's.
    after = [bisect_left(begins, int(packing.end_U[begin])) for begin in begins[:-1]] + [len(sizes)]
    above = [sum(sizes[chain] for chain in path) for path in paths]
    # Costs of each chain with all below it, and of all below it.
    best, below = [0.0] * len(sizes), [0.0] * (len(sizes) + 1)
    one_with_below, one_below = set(), set()

    def join_below(chain: int, keys: int) -> None:
        tokens = begins[after[chain]] - begins[chain + 1]
        if tokens and (joined := cost.of(tokens, keys)) < below[chain]:
            below[chain] = joined
            one_below.add(chain)

    for chain in reversed(range(len(sizes))):
        join_below(chain, above[chain] + sizes[chain])
        best[chain] = cost.of(sizes[chain], above[chain]) + below[chain]
        if (joined := cost.of(begins[after[chain]] - begins[chain], above[chain])) < best[chain]:
            best[chain] = joined
            one_with_below.add(chain)
        below[paths[chain][-1] if paths[chain] else -1] += best[chain]
    join_below(-1, 0)

    if -1 in one_below:
        return [AttentionCall(range(len(sizes)), [])]
    calls: list[AttentionCall] = []
    for chain, path in enumerate(paths):
        if calls and chain < calls[-1].chains.stop:
            continue
        if chain in one_with_below:
            calls.append(AttentionCall(range(chain, after[chain]), path))
            continue
        calls.append(AttentionCall(range(chain, chain + 1), path))
        if chain in one_below:
            calls.append(AttentionCall(range(chain + 1, after[chain]), [*path, chain]))
    return calls


def question_rows(packing: Packing, scored_T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Select one logit row per distinct (token, next token) pair, for all next tokens in ``scored_T``.

    Args:
        scored_T: Indices of tokens in the concatenated sequences; never the first token of a sequence.

    Returns:
        The unique token that each row belongs to; the next token of each row; and for each token of all sequences the
        row that scores the token *after* it, as verl aligns log-probabilities, or the number of rows if that token is
        not scored. There is at least one row, which is unused if nothing is scored.
    """
    asked_U = np.zeros(len(packing.token_U), dtype=bool)
    asked_U[packing.unique_T[scored_T]] = True
    asked_R = np.flatnonzero(asked_U)
    row_U = np.cumsum(asked_U) - 1
    before_R, label_R = packing.parent_U[asked_R], packing.token_U[asked_R]
    if not len(asked_R):
        before_R, label_R = np.zeros(1, dtype=np.int64), packing.token_U[:1]
    row_T = np.full(len(packing.unique_T), len(before_R))
    row_T[scored_T - 1] = row_U[packing.unique_T[scored_T]]
    return before_R, label_R, row_T


def blocks(end_U: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of a query block and a key block with attention between some, or all, tokens.

    Args:
        end_U: First token after the descendants of each token (see :class:`Packing`).
        size: Number of tokens per block.

    Returns:
        Two boolean arrays, (query blocks, key blocks): whether any query attends to any key; and whether every query
        attends to every key (False for a block with itself).
    """
    count = -(-len(end_U) // size)
    begins = np.arange(count) * size
    farthest, nearest = (function.reduceat(end_U, begins) for function in (np.maximum, np.minimum))
    before = begins[None, :] < begins[:, None]  # all keys of an earlier block precede all queries
    some = (before & (farthest[None, :] > begins[:, None])) | np.eye(count, dtype=bool)
    last = np.minimum(begins + size, len(end_U))
    return some, before & (nearest[None, :] >= last[:, None])


def split(ordered: PrefixOrder, most_tokens: int) -> list[tuple[int, int]]:
    """Divide sorted sequences into runs of at most ``most_tokens`` unique tokens.

    The division has the fewest unique tokens in total and, among those, the fewest runs. A prefix shared across two
    runs counts in both.

    Returns:
        (begin, end) of each run in the order of ``ordered``.

    Raises:
        ValueError: if one sequence has more than ``most_tokens`` tokens.
    """
    if len(ordered.length_S) and (longest := int(ordered.length_S.max())) > most_tokens:
        raise ValueError(
            f"a sequence of {longest} tokens does not fit into {most_tokens} tokens per micro-batch. "
            "Raise the *max_token_len_per_gpu of this step."
        )
    length, shared = ordered.length_S.tolist(), ordered.shared_S.tolist()
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # unique tokens, runs, begin of the last run
    for end in range(1, len(length) + 1):
        tokens, choices = 0, []
        for begin in range(end - 1, -1, -1):
            tokens += length[begin] - (shared[begin + 1] if begin + 1 < end else 0)
            if tokens > most_tokens:
                break
            choices.append((best[begin][0] + tokens, best[begin][1] + 1, begin))
        best.append(min(choices))
    runs, end = [], len(length)
    while end:
        runs.append((best[end][2], end))
        end = best[end][2]
    return runs[::-1]


def divide(ordered: PrefixOrder, runs: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Divide runs further until there are ``count`` runs, because data-parallel ranks need equally many.

    Each step cuts the run with the most unique tokens so that the larger half is as small as possible.

    Raises:
        ValueError: if there are fewer sequences than ``count``.
    """
    if len(ordered.length_S) < count:
        raise ValueError(f"{len(ordered.length_S)} sequences cannot be divided into {count} runs")
    runs = list(runs)
    while len(runs) < count:
        divisible = [run for run in runs if run[1] - run[0] > 1]
        begin, end = max(divisible, key=lambda run: unique_tokens(ordered, *run))
        cut = min(
            range(begin + 1, end),
            key=lambda cut: max(unique_tokens(ordered, begin, cut), unique_tokens(ordered, cut, end)),
        )
        place = runs.index((begin, end))
        runs[place : place + 1] = [(begin, cut), (cut, end)]
    return runs


def unique_tokens(ordered: PrefixOrder, begin: int, end: int) -> int:
    """Count the unique tokens of a run of sorted sequences."""
    return int(ordered.length_S[begin:end].sum() - ordered.shared_S[begin + 1 : end].sum())
