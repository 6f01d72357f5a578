# SPDX-License-Identifier: Apache-2.0
"""Colors are distinguishable and readable, also for color-blind readers."""

import pytest

from recipe.treepo.viewer.colors import DARK, LIGHT, Scale, contrast, ink_on, rgb, scale_of
from recipe.treepo.viewer.layout import layout

# Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB.
BLIND = {
    "protanopia": [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)],
    "deuteranopia": [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)],
    "tritanopia": [(1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)],
    "none": [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
}


def lab(color, rows):
    """CIE L*a*b* of a color as seen by a reader with these rows."""
    linear = [((value / 255 + 0.055) / 1.055) ** 2.4 if value > 10 else value / 255 / 12.92 for value in rgb(color)]
    seen = [max(0.0, sum(a * b for a, b in zip(row, linear, strict=True))) for row in rows]
    to_xyz = [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]
    white = (0.9505, 1.0, 1.089)
    x, y, z = (
        (share ** (1 / 3) if (share := sum(a * b for a, b in zip(row, seen, strict=True)) / one) > 0.008856 else
         7.787 * share + 16 / 116)
        for row, one in zip(to_xyz, white, strict=True)
    )  # fmt: skip
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(first, second, rows):
    return sum((a - b) ** 2 for a, b in zip(lab(first, rows), lab(second, rows), strict=True)) ** 0.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("reader", BLIND)
def test_low_middle_and_high_look_different(theme, reader):
    low, _, middle, _, high = theme.diverging
    for first, second in ((low, middle), (middle, high), (low, high), (theme.good, theme.bad)):
        assert distance(first, second, BLIND[reader]) > 20
    levels = [lab(color, BLIND[reader])[0] for color in theme.sequential]
    steps = [later - earlier for earlier, later in zip(levels, levels[1:], strict=False)]
    assert all(step > 8 for step in steps) or all(step < -8 for step in steps)


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_can_be_read(theme):
    for stops in (theme.diverging, theme.sequential):
        scale = Scale(0.0, 1.0, stops, theme.neutral)
        colors = [scale.color(value / 200) for value in range(201)] + [scale.color(None)]
        assert min(contrast(ink_on(color), color) for color in colors) >= 4.5
    for ink in (theme.ink, theme.faint, theme.good, theme.bad):
        assert contrast(ink, theme.paper) >= 4.5


def test_a_scale_by_hand():
    scale = Scale(-1.0, 1.0, ("#000000", "#808080", "#ffffff"), "#123456")
    assert [scale.color(value) for value in (-9, -1, -0.5, 0, 1, 9)] == [
        *("#000000", "#000000", "#404040", "#808080", "#ffffff", "#ffffff")
    ]
    assert scale.color(None) == "#123456"
    assert Scale(3.0, 3.0, ("#000000", "#808080", "#ffffff"), "#123456").color(3.0) == "#808080"


def test_the_ends_of_the_scales(rich):
    picture = layout(rich)
    ends = {name: (scale.low, scale.high) for name in ("reward", "advantage", "logprob", "version")
            if (scale := scale_of(picture, name, LIGHT))}  # fmt: skip
    most = max(abs(box.advantage) for box in picture.boxes if box.advantage is not None)
    lowest = min(box.logprob for box in picture.boxes if box.logprob is not None)
    assert ends == {
        "reward": (0.0, 1.0),
        "advantage": (-most, most),
        "logprob": (min(-1.0, lowest), 0.0),
        "version": (4, 4),
    }
    with pytest.raises(ValueError, match="color_by=size: must be one of reward, advantage, logprob, version"):
        scale_of(picture, "size", LIGHT)
