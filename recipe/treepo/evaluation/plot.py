# SPDX-License-Identifier: Apache-2.0
"""Draw accuracy against decoded tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.treepo.evaluation.summary import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette for color-blind readers, and marker shapes for grayscale prints.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
PANELS = {"mean": "mean accuracy", "majority": "majority-vote accuracy", "passed": "share of problems solved"}


def draw(curves: Mapping[str, Mapping[str, Sequence[Point]]], path: Path) -> None:
    """Draw one row of panels per data set, with intervals as error bars.

    Args:
        curves: Points of each scaling curve, by data set and arm.
        path: Image file to write.
    """
    figure_of(curves).savefig(path, dpi=130)


def figure_of(curves: Mapping[str, Mapping[str, Sequence[Point]]]) -> "Figure":
    """Return the figure that :func:`draw` saves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 0.6 + 3.6 * len(curves)), layout="constrained")
    axes = figure.subplots(len(curves), len(PANELS), squeeze=False)
    for row, (name, arms) in zip(axes, curves.items(), strict=True):
        for panel, (attribute, label) in zip(row, PANELS.items(), strict=True):
            for number, (arm, points) in enumerate(arms.items()):
                intervals = [getattr(point, attribute) for point in points]
                panel.errorbar(
                    [point.decoded_tokens for point in points],
                    [interval.value for interval in intervals],
                    yerr=[
                        # A percentile interval may exclude its value, by rounding or by chance.
                        [max(0.0, interval.value - interval.low) for interval in intervals],
                        [max(0.0, interval.high - interval.value) for interval in intervals],
                    ],
                    **style(number),
                    capsize=2,
                    linewidth=1.5,
                    label=_plain(arm),
                )
            panel.set(xscale="log", title=_plain(name), ylabel=label, xlabel="decoded tokens per problem")
    finish(figure)
    return figure


def style(number: int) -> dict[str, str]:
    """Return color and mark of a line by its number; the first 49 lines differ."""
    again, place = divmod(number, len(COLORS))
    return {"color": COLORS[place], "marker": MARKS[(place + again) % len(MARKS)]}


def finish(figure: "Figure", *, columns: int = 5) -> None:
    """Give all panels a grid and no frame, and the figure the legend of its first panel.

    Args:
        columns: Columns of the legend.
    """
    for panel in figure.axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def _plain(name: str) -> str:
    """Escape dollar signs, which begin TeX in matplotlib."""
    return name.replace("$", r"\$")
