# SPDX-License-Identifier: Apache-2.0
"""Colors of values, distinguishable by color-blind readers, for light and dark pages.

Rewards and advantages use blue against orange, because many readers cannot distinguish red from green.
Log-probabilities and policy versions use one hue, from light to dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recipe.treepo.viewer.layout import Layout

COLOR_BY = {
    "reward": "mean reward",
    "advantage": "mean advantage",
    "logprob": "mean log-prob",
    "version": "policy version",
}
"""Values that may color a box, with their display names."""
Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colors of a light or dark picture, as ``#rrggbb``.

    Attributes:
        paper, ink, faint: Background, text, and lines or secondary text.
        neutral: Color of a box without a value.
        good, bad: Colors of a correct and a wrong answer.
        diverging, sequential: Stops of the two scales, from low to high.
    """

    paper: str
    ink: str
    faint: str
    neutral: str
    good: str
    bad: str
    diverging: tuple[str, ...]
    sequential: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    faint="#646c76",
    neutral="#e3e5e8",
    good="#005a9c",
    bad="#a84300",
    diverging=("#d35400", "#f2a45c", "#f1ede6", "#79b4e0", "#0b63a8"),
    sequential=("#4b1d6b", "#8f4aa8", "#cfa6d8", "#f8f0fa"),
)
DARK = Theme(
    paper="#14171b",
    ink="#e6e9ed",
    faint="#98a1ac",
    neutral="#3a4048",
    good="#7cc0f5",
    bad="#ffa45c",
    diverging=("#f08c2e", "#8f5420", "#2a2e34", "#235d8c", "#59b0f2"),
    sequential=("#e9c7f2", "#b178c4", "#6b3d80", "#2b2233"),
)
THEMES = {"light": LIGHT, "dark": DARK}


@dataclass(frozen=True, slots=True)
class Scale:
    """Map from values to colors.

    Attributes:
        low, high: Values of the first and the last stop; values beyond them get these colors.
        stops: Colors at equal distances.
        neutral: Color of a missing value.
    """

    low: float
    high: float
    stops: Sequence[str]
    neutral: str

    def color(self, value: float | None) -> str:
        """Return the color of a value as ``#rrggbb``."""
        if value is None:
            return self.neutral
        place = 0.5 if self.high <= self.low else min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        position = place * (len(self.stops) - 1)
        index = min(int(position), len(self.stops) - 2)
        return _mix(self.stops[index], self.stops[index + 1], position - index)


def scale_of(picture: Layout, color_by: str, theme: Theme) -> Scale:
    """Return the scale of a tree's values.

    Rewards cover at least 0 to 1, so that a tree with equal rewards still shows whether they are high or low.
    Advantages are symmetric about 0. Log-probabilities go from at most -1 to 0, versions from oldest to newest.

    Raises:
        ValueError: if ``color_by`` is not a key of :data:`COLOR_BY`.
    """
    if color_by not in COLOR_BY:
        raise ValueError(f"color_by={color_by}: must be one of {', '.join(COLOR_BY)}.")
    values = [value for box in picture.boxes if (value := box.value(color_by)) is not None]
    match color_by:
        case "reward":
            rewards = [row.reward for row in picture.rows if row.reward is not None]
            low, high = min(rewards, default=0.0), max(rewards, default=1.0)
            return Scale(min(low, 0.0), max(high, 1.0), theme.diverging, theme.neutral)
        case "advantage":
            most = max(map(abs, values), default=0.0)
            return Scale(-most, most, theme.diverging, theme.neutral)
        case "logprob":
            return Scale(min([-1.0, *values]), 0.0, *_rest(theme))
        case _:
            return Scale(min(values, default=0.0), max(values, default=1.0), *_rest(theme))


def ink_on(color: str) -> str:
    """Return black or white, whichever has the higher contrast on ``color`` (always at least 4.5)."""
    black, white = "#000000", "#ffffff"
    return black if contrast(black, color) >= contrast(white, color) else white


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colors, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def rgb(color: str) -> Rgb:
    """Return red, green and blue, 0 to 255 each."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _rest(theme: Theme) -> tuple[Sequence[str], str]:
    return theme.sequential, theme.neutral


def _mix(first: str, second: str, share: float) -> str:
    channels = zip(rgb(first), rgb(second), strict=True)
    red, green, blue = (round(a + (b - a) * share) for a, b in channels)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _luminance(color: str) -> float:
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (value / 255 for value in rgb(color))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
