# SPDX-License-Identifier: Apache-2.0
"""Prefix trees of token sequences, compared with sets of prefixes."""

from itertools import accumulate, combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.packed.prefix_tree import (
    AttentionCall,
    CallCost,
    attention_calls,
    blocks,
    chains,
    divide,
    pack,
    prefix_order,
    question_rows,
    split,
    unique_tokens,
)

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=9)


def arrays(rows):
    return [np.array(row, dtype=np.int64) for row in rows]


def prefixes(rows):
    return {tuple(row[: end + 1]) for row in rows for end in range(len(row))}


def test_a_tree_by_hand():
    packing = pack(arrays([[5, 1, 2, 9], [5, 3], [5, 1, 2, 4], [5, 1, 2, 4], [5]]))
    # sorted: 5 | 5 1 2 4 (twice) | 5 1 2 9 | 5 3
    assert packing.token_U.tolist() == [5, 1, 2, 4, 9, 3]
    assert packing.depth_U.tolist() == [0, 1, 2, 3, 3, 1]
    assert packing.parent_U.tolist() == [-1, 0, 1, 2, 2, 0]
    assert packing.end_U.tolist() == [6, 5, 5, 4, 5, 6]
    assert packing.unique_T.tolist() == [0, 1, 2, 4, 0, 5, 0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_ids_are_sorted_as_numbers_however_large():
    ordered = prefix_order(arrays([[300], [2], [70_000], [255, 1], [255]]))
    assert ordered.order_S.tolist() == [1, 4, 3, 0, 2]
    assert ordered.shared_S.tolist() == [0, 0, 1, 0, 0]


@given(ROWS)
def test_a_token_is_unique_by_all_that_stands_before_it(rows):
    packing = pack(arrays(rows))
    assert len(packing.token_U) == len(prefixes(rows))
    # The parents of each unique token lead back along its prefix.
    read = {}
    for unique in range(len(packing.token_U)):
        above = read[packing.parent_U[unique]] if packing.parent_U[unique] >= 0 else ()
        read[unique] = (*above, packing.token_U[unique])
        assert packing.depth_U[unique] == len(above)
    offset = 0
    for row in rows:
        for end in range(len(row)):
            assert read[packing.unique_T[offset + end]] == tuple(row[: end + 1])
        offset += len(row)
    assert offset == len(packing.unique_T)
    for i in read:
        for j in read:
            assert (j <= i < packing.end_U[j]) == (read[i][: len(read[j])] == read[j])


@given(ROWS)
def test_chains_lie_between_two_branches(rows):
    packing = pack(arrays(rows))
    sizes, paths = chains(packing)
    assert sum(sizes) == len(packing.token_U)
    begins = np.cumsum([0, *sizes]).tolist()
    children = [packing.parent_U.tolist().count(unique) for unique in range(len(packing.token_U))]
    for chain, (size, path) in enumerate(zip(sizes, paths, strict=True)):
        first = begins[chain]
        above = [token for other in path for token in range(begins[other], begins[other + 1])]
        # The ancestors of the first token are the tokens of the chains on its path.
        walked, token = [], int(packing.parent_U[first])
        while token >= 0:
            walked.append(token)
            token = int(packing.parent_U[token])
        assert walked[::-1] == above
        assert [packing.parent_U[token] for token in range(first + 1, first + size)] == list(
            range(first, first + size - 1)
        )
        assert all(children[token] == 1 for token in range(first, first + size - 1))
        # The chain is as long as possible: it begins at a root or below a token with several children.
        before = packing.parent_U[first]
        assert before < 0 or children[before] > 1


COSTS = st.builds(CallCost, call=st.sampled_from([0, 3, 40, 10**6]), key=st.sampled_from([0, 0.5, 4, 100]))


def tokens_of_chains(packing) -> list[range]:
    return [range(begin, end) for begin, end in pairwise([0, *accumulate(chains(packing)[0])])]


def tokens_above(packing, token: int) -> list[int]:
    walked = []
    while (token := int(packing.parent_U[token])) >= 0:
        walked.append(token)
    return walked[::-1]


def divisions(packing, begin: int, end: int, above: int, cost: CallCost) -> float:
    """Return the least cost of the allowed calls for the trees side by side in a range, by trying all of them."""
    if begin == end:
        return 0.0
    total, tree = 0.0, begin
    while tree < end:
        after, chain_end = int(packing.end_U[tree]), tree + 1
        children = packing.parent_U.tolist()
        while chain_end < after and children.count(chain_end - 1) == 1:
            chain_end += 1
        size = chain_end - tree
        own = cost.of(size, above) + divisions(packing, chain_end, after, above + size, cost)
        total += min(own, cost.of(after - tree, above))
        tree = after
    return min(total, cost.of(end - begin, above))


@given(ROWS, COSTS)
def test_attention_calls_cover_all_queries_with_their_ancestors_at_the_least_cost(rows, cost):
    packing = pack(arrays(rows))
    calls, tokens = attention_calls(packing, cost), tokens_of_chains(packing)
    assert [call.chains.start for call in calls] == [0, *(call.chains.stop for call in calls[:-1])]
    assert calls[-1].chains.stop == len(tokens)
    spent = 0.0
    for call in calls:
        above = [token for chain in call.above for token in tokens[chain]]
        queries = [token for chain in call.chains for token in tokens[chain]]
        # Every query sees all that is above the call, and besides it queries of the call only.
        for query in queries:
            seen = tokens_above(packing, query)
            assert seen[: len(above)] == above and set(seen[len(above) :]) <= set(queries)
        spent += cost.of(len(queries), len(above))
    assert spent == pytest.approx(divisions(packing, 0, len(packing.token_U), 0, cost))


def test_short_chains_below_a_long_prefix_share_a_call_and_long_ones_do_not():
    prefix, cost = list(range(1000, 3000)), CallCost(call=20_000, key=30)
    short = pack(arrays([[*prefix, *range(10 * n, 10 * n + 8)] for n in range(50)]))
    assert attention_calls(short, cost) == [AttentionCall(range(1), []), AttentionCall(range(1, 51), [0])]
    # A call of 50 x 8 queries costs 400 * 2400 + 80,000, fifty calls of 8 cost 50 * (8 * 2008 + 80,000).
    long = pack(arrays([[*prefix, *range(200 * n, 200 * n + 200)] for n in range(4)]))
    assert [call.chains for call in attention_calls(long, cost)] == [range(n, n + 1) for n in range(5)]


@given(ROWS, st.data())
def test_each_question_is_computed_once_and_answered_in_place(rows, data):
    packing = pack(arrays(rows))
    begins = np.cumsum([0, *map(len, rows)]).tolist()
    tokens = [(number, at) for number, row in enumerate(rows) for at in range(1, len(row))]
    scored = data.draw(st.lists(st.sampled_from(tokens), unique=True) if tokens else st.just([]))
    scored_T = np.array(sorted(begins[number] + at for number, at in scored), dtype=np.int64)
    before_R, label_R, row_T = question_rows(packing, scored_T)
    # Tokens share a row if they and their prefixes are equal.
    questions = {tuple(rows[number][: at + 1]) for number, at in scored}
    assert len(before_R) == len(label_R) == max(1, len(questions))
    asked = set()
    for number, row in enumerate(rows):
        for at in range(len(row)):
            answer = row_T[begins[number] + at]
            if (number, at + 1) in scored:
                assert before_R[answer] == packing.unique_T[begins[number] + at] and label_R[answer] == row[at + 1]
                asked.add(int(answer))
            else:
                assert answer == len(before_R)
    assert asked == set(range(len(questions)))


@given(ROWS, st.integers(1, 5))
def test_blocks_record_whether_some_or_all_pairs_are_seen(rows, size):
    packing = pack(arrays(rows))
    count = len(packing.token_U)
    place = np.arange(count)
    sees = (place[None, :] <= place[:, None]) & (place[:, None] < packing.end_U[None, :])
    some, full = blocks(packing.end_U, size)
    for query in range(len(some)):
        for key in range(len(some)):
            pairs = sees[query * size : (query + 1) * size, key * size : (key + 1) * size]
            assert some[query, key] == pairs.any()
            assert full[query, key] == (pairs.all() and query != key)


def ways(count):
    """Yield all ways to divide a list of ``count`` items into runs."""
    for size in range(count):
        for cuts in combinations(range(1, count), size):
            yield list(zip((0, *cuts), (*cuts, count), strict=True))


@given(ROWS, st.integers(7, 30))
def test_runs_have_the_fewest_tokens_and_are_the_fewest(rows, most):
    ordered = prefix_order(arrays(rows))
    in_order = [rows[number] for number in ordered.order_S]

    def cost(runs):
        sizes = [len(prefixes(in_order[begin:end])) for begin, end in runs]
        assert sizes == [unique_tokens(ordered, begin, end) for begin, end in runs]
        return (sum(sizes), len(runs)) if max(sizes) <= most else (float("inf"), 0)

    assert cost(split(ordered, most)) == min(map(cost, ways(len(rows))))


@given(ROWS, st.integers(7, 30), st.data())
def test_runs_are_divided_until_they_are_as_many_as_wanted(rows, most, data):
    ordered = prefix_order(arrays(rows))
    runs = split(ordered, most)
    count = data.draw(st.integers(len(runs), len(rows)))
    divided = divide(ordered, runs, count)
    assert len(divided) == count
    assert [place for begin, end in divided for place in range(begin, end)] == list(range(len(rows)))
    assert {begin for begin, _ in runs} <= {begin for begin, _ in divided}
    assert all(begin < end and unique_tokens(ordered, begin, end) <= most for begin, end in divided)


def test_the_largest_run_is_divided_in_the_middle():
    ordered = prefix_order(arrays([[1] * 4, [2] * 9, [3, 1, 1], [3, 2, 2], [4] * 8]))
    runs = [(0, 1), (1, 5)]
    # Unique tokens of the halves: 9 and 13, 12 and 11 (both hold the token 3), or 14 and 8. Then the half of 12 is cut.
    assert divide(ordered, runs, 3) == [(0, 1), (1, 3), (3, 5)]
    assert divide(ordered, runs, 4) == [(0, 1), (1, 2), (2, 3), (3, 5)]


def test_inputs_that_do_not_fit_are_reported():
    ordered = prefix_order(arrays([[1] * 4, [2] * 9]))
    with pytest.raises(ValueError, match="a sequence of 9 tokens does not fit into 8"):
        split(ordered, 8)
    with pytest.raises(ValueError, match="2 sequences cannot be divided into 3 runs"):
        divide(ordered, [(0, 2)], 3)
