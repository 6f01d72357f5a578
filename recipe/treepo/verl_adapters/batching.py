# SPDX-License-Identifier: Apache-2.0
"""Division of a batch among data-parallel ranks."""

from collections.abc import Sequence


def parts_by_prompt(prompt_ids: Sequence[str], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Divide rows among ranks in equal numbers, and keep the rows of a prompt together if they fit.

    The division is greedy: prompts in descending order of tokens, each to the rank with the fewest tokens among the
    ranks with room for all its rows. If no rank has room, the prompt is split.

    Args:
        prompt_ids: Prompt of each row.
        lengths: Number of tokens of each row.
        ranks: Number of data-parallel ranks, a divisor of the number of rows.

    Returns:
        Row numbers of each rank. Rows of a prompt are adjacent, prompts in their original order.
    """
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompt_ids):
        rows.setdefault(prompt, []).append(row)
    room, tokens = [len(prompt_ids) // ranks] * ranks, [0] * ranks
    parts: list[list[list[int]]] = [[] for _ in range(ranks)]
    for group in sorted(rows.values(), key=lambda group: -sum(lengths[row] for row in group)):
        while group:
            fits = [rank for rank in range(ranks) if room[rank] >= len(group)]
            rank = min(fits, key=tokens.__getitem__) if fits else max(range(ranks), key=room.__getitem__)
            taken, group = group[: room[rank]], group[room[rank] :]
            parts[rank].append(taken)
            room[rank] -= len(taken)
            tokens[rank] += sum(lengths[row] for row in taken)
    return [[row for group in sorted(part) for row in group] for part in parts]
