# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(titles: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table with aligned columns.

    Args:
        titles: Column titles.
        rows: Cells of each row, one per title. Line breaks become spaces; vertical bars are escaped.
    """
    lines = [[_cell(value) for value in cells] for cells in (titles, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |" for cells in lines
    )


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
