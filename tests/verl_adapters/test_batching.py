# SPDX-License-Identifier: Apache-2.0
"""Division of a batch among ranks."""

from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.verl_adapters.batching import parts_by_prompt


def test_prompts_stay_whole_and_tokens_are_balanced():
    prompts = list("abcdabcd")
    # a 8, b 2, c 5, d 5 tokens: a, then c and d to the rank with the fewest tokens that has room, then b
    assert parts_by_prompt(prompts, [4, 1, 2, 3, 4, 1, 3, 2], 2) == [[0, 4, 1, 5], [2, 6, 3, 7]]
    assert parts_by_prompt(prompts, [1] * 8, 1) == [[0, 4, 1, 5, 2, 6, 3, 7]]


def test_a_prompt_is_split_only_if_no_rank_has_room():
    # a 4 rows, b 2, c 2: a fills one rank, b and c the other
    assert parts_by_prompt(list("abacacab"), [1] * 8, 2) == [[0, 2, 4, 6], [1, 7, 3, 5]]
    # two ranks of 3 rows for three prompts of 2: the last is split
    assert parts_by_prompt(list("aabbcc"), [3, 3, 2, 2, 1, 1], 2) == [[0, 1, 4], [2, 3, 5]]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 9)), min_size=1, max_size=8), st.integers(1, 3))
def test_every_row_goes_to_one_rank_and_ranks_get_equal_numbers(rows, ranks):
    rows = rows * ranks
    parts = parts_by_prompt([prompt for prompt, _ in rows], [length for _, length in rows], ranks)
    assert sorted(row for part in parts for row in part) == list(range(len(rows)))
    assert {len(part) for part in parts} == {len(rows) // ranks}
