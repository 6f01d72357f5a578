# SPDX-License-Identifier: Apache-2.0
"""Fold token sequences into prefix trees, so that each shared token goes through a model once. Pure numpy.

Legend of the suffixes: ``_S`` sequences, ``_T`` tokens of all sequences, one sequence after the other, ``_U`` unique
tokens, in the order in which the model gets them.

Two tokens are one where everything up to them is the same. The unique tokens stand depth first, so that the tokens
below a token follow it without gaps, and "is an ancestor" is a comparison of numbers: token ``j`` is above token ``i``,
or is ``i``, exactly if ``j <= i < end_U[j]``. Sequences without a common beginning are trees side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PrefixOrder:
    """Sequences in an order in which those with a common prefix stand together.

    Attributes:
        order_S: Numbers of the sequences, in that order.
        length_S: Tokens of each, in that order.
        shared_S: Tokens that each has in common with the one before it, in that order; 0 for the first.
    """

    order_S: np.ndarray
    length_S: np.ndarray
    shared_S: np.ndarray


@dataclass(frozen=True)
class Packing:
    """Prefix trees in a row.

    Attributes:
        token_U: The unique tokens.
        depth_U: Tokens before each on its path.
        parent_U: The token before it, -1 for the first of a sequence.
        end_U: The first token that is not below it.
        unique_T: Which unique token each token of each sequence is, the sequences in the order in which they came.
    """

    token_U: np.ndarray
    depth_U: np.ndarray
    parent_U: np.ndarray
    end_U: np.ndarray
    unique_T: np.ndarray


def prefix_order(sequences: Sequence[np.ndarray]) -> PrefixOrder:
    """Sort sequences of token ids by their tokens.

    Args:
        sequences: Arrays of one dimension, none empty, of ids from 0 on.
    """
    # Bytes of numbers with the highest byte first are in the order of the numbers.
    keys = [np.ascontiguousarray(tokens, dtype=">u4").tobytes() for tokens in sequences]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    length = np.array([len(sequences[number]) for number in order], dtype=np.int64)
    shared = np.zeros(len(order), dtype=np.int64)
    for place in range(1, len(order)):
        shared[place] = common_length(sequences[order[place - 1]], sequences[order[place]])
    return PrefixOrder(np.array(order, dtype=np.int64), length, shared)


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """Return how many tokens two sequences have in common from the beginning on."""
    shorter = min(len(one), len(other))
    different = one[:shorter] != other[:shorter]
    return int(different.argmax()) if different.any() else shorter


def pack(sequences: Sequence[np.ndarray]) -> Packing:
    """Fold sequences into prefix trees; see :func:`prefix_order` for what they may be."""
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
    """Divide unique tokens into chains, in which each token but the first has the one before it as its only parent.

    Returns:
        The tokens of each chain, in the order of the unique tokens; and the chains above each, the first token's side
        first.
    """
    count, parent_U = len(packing.token_U), packing.parent_U
    children_U = np.bincount(parent_U[parent_U >= 0], minlength=count)
    # A token goes on with the chain of the one before it if that is its parent, and has no other child.
    goes_on_U = (parent_U == np.arange(count) - 1) & (parent_U >= 0)
    goes_on_U[1:] &= children_U[:-1] == 1
    begins = np.flatnonzero(~goes_on_U)
    chain_U = np.cumsum(~goes_on_U) - 1
    paths: list[list[int]] = []
    for begin in begins.tolist():
        above = int(parent_U[begin])
        paths.append([] if above < 0 else [*paths[chain_U[above]], int(chain_U[above])])
    return np.diff([*begins.tolist(), count]).tolist(), paths


def question_rows(packing: Packing, scored_T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ask once for each unique token among ``scored_T`` how likely it was after the one before it.

    Args:
        scored_T: Numbers of tokens (all sequences, one after the other), none the first of its sequence.

    Returns:
        The unique token whose output is asked, for each row; the token asked about; and for each token of all sequences
        the row with the answer about the token *after* it, where verl has it, or the number of rows where nothing is
        asked. There is at least one row, which nobody reads where nothing is asked at all.
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
    """Say which blocks of ``size`` queries see something of which blocks of keys, and which see all of it.

    Args:
        end_U: See :class:`Packing`.

    Returns:
        (blocks of queries, blocks of keys) of booleans, twice.
    """
    count = -(-len(end_U) // size)
    begins = np.arange(count) * size
    farthest, nearest = (function.reduceat(end_U, begins) for function in (np.maximum, np.minimum))
    before = begins[None, :] < begins[:, None]  # keys in an earlier block: all of them stand before all queries
    some = (before & (farthest[None, :] > begins[:, None])) | np.eye(count, dtype=bool)
    last = np.minimum(begins + size, len(end_U))
    return some, before & (nearest[None, :] >= last[:, None])


def split(ordered: PrefixOrder, most_tokens: int) -> list[tuple[int, int]]:
    """Divide sorted sequences into runs that have at most ``most_tokens`` unique tokens each.

    Of all ways to do so, one with the fewest unique tokens in all, and of these with the fewest runs. A prefix that
    sequences of two runs have in common counts in both.

    Returns:
        (begin, end) of each run in the order of ``ordered``.

    Raises:
        ValueError: if a sequence alone has more tokens.
    """
    if len(ordered.length_S) and (longest := int(ordered.length_S.max())) > most_tokens:
        raise ValueError(f"a sequence of {longest} tokens does not fit into {most_tokens}")
    length, shared = ordered.length_S.tolist(), ordered.shared_S.tolist()
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # unique tokens, runs, where the last of them begins
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
    """Divide runs further until there are ``count`` of them: data-parallel ranks have to have equally many.

    The run with the most unique tokens is divided, where that leaves the smaller larger half.

    Raises:
        ValueError: if there are fewer sequences than that.
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
    """Return the unique tokens of a run of sorted sequences."""
    return int(ordered.length_S[begin:end].sum() - ordered.shared_S[begin + 1 : end].sum())
