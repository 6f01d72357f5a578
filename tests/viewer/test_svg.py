# SPDX-License-Identifier: Apache-2.0
"""The drawn picture: SVG and image of the same shapes, texts within their boxes."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.strange_values import places, with_value
from recipe.treepo.viewer.colors import LIGHT, scale_of
from recipe.treepo.viewer.layout import layout
from recipe.treepo.viewer.picture import draw, tick_step
from recipe.treepo.viewer.png import tree_image
from recipe.treepo.viewer.shapes import NodeShapes, Rect, Text, cut, text_width, wrap
from recipe.treepo.viewer.svg import legend_svg, tree_svg

SVG = "{http://www.w3.org/2000/svg}"
TEXT = st.text(st.characters(exclude_categories=()), max_size=80)


def drawing(tree, **options):
    return draw(tree, layout(tree), **options)


def boxes(picture):
    return {shape.node: shape for shape in picture.shapes if isinstance(shape, NodeShapes)}


def test_places_by_hand(rich):
    """1200 wide, 53 left of the boxes and 218 right of them: 929 pixels for 256 tokens; rows of 26 pixels."""
    picture = drawing(rich, header=False)
    box_of = {rich["nodes"][node]["key"]: shape.rect for node, shape in boxes(picture).items()}
    first = box_of["0"]
    assert (first.x, first.y) == (53.0, 4.0)
    assert first.width == pytest.approx(929 * 64 / 256 - 1) and first.height == 3 * 26 - 1
    last = box_of["0.1.0.0"]
    assert last.x == pytest.approx(53 + 929 * 192 / 256) and last.y == 4 + 26
    assert (picture.width, picture.height) == (1200, 4 + 10 * 26 + 34)
    assert box_of[""].width == 50 and box_of[""].height == 10 * 26 - 1


@pytest.mark.parametrize("width", [100, 320, 640, 1200, 3000])
@pytest.mark.parametrize("height", [None, 60, 200, 2000])
@pytest.mark.parametrize("header", [True, False])
def test_texts_stay_in_their_boxes_and_do_not_overlap(rich, width, height, header):
    picture = drawing(rich, width=width, height=height, header=header)
    free = [shape for shape in picture.shapes if isinstance(shape, Text)]
    areas = []
    for text in free:
        length = text_width(text.text, text.size)
        left = text.x - length if text.right else text.x
        assert left >= 0 and left + length <= picture.width + 1, text
        areas.append((left, left + length, text.y - 0.8 * text.size, text.y + 0.2 * text.size))
    for number, (left, right, top, bottom) in enumerate(areas):
        for other in areas[:number]:
            assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
    for shape in boxes(picture).values():
        rect, lines = shape.rect, sorted(text.y for text in shape.texts)
        assert all(later - earlier >= 11 for earlier, later in zip(lines, lines[1:], strict=False))
        for text in shape.texts:
            assert rect.x <= text.x and text.x + text_width(text.text, text.size) <= rect.x + rect.width
            assert rect.y <= text.y - 0.75 * text.size and text.y <= rect.y + rect.height


@given(text=TEXT, width=st.floats(0, 300))
def test_a_cut_text_fits(text, width):
    shown = cut(text, 11.0, width)
    assert text_width(shown, 11.0) <= width or shown == ""
    assert shown == text or text.startswith(shown.removesuffix("…"))


@given(text=TEXT, width=st.floats(0, 300), lines=st.integers(0, 5))
def test_wrapped_lines_fit(text, width, lines):
    shown = wrap(text, 11.0, width, lines)
    assert len(shown) <= lines and all(text_width(line, 11.0) <= width for line in shown)


@pytest.mark.parametrize("color_by", ["reward", "advantage", "logprob", "version"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_svg_is_well_formed_and_names_its_nodes(rich, color_by, theme):
    root = ElementTree.fromstring(tree_svg(rich, color_by=color_by, theme=theme))
    groups = root.findall(f"{SVG}g")
    assert [int(group.get("data-node")) for group in groups] == list(range(len(rich["nodes"])))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "g", "rect", "line", "polygon", "text", "defs", "pattern", "path")
    }
    assert not [
        element for element in root.iter() for name in element.keys() if name.startswith("on") or "href" in name
    ]
    ElementTree.fromstring(legend_svg(layout(rich), color_by=color_by, width=600, theme=theme))


def test_boxes_have_the_color_of_their_value(rich):
    picture = layout(rich)
    scale = scale_of(picture, "reward", LIGHT)
    shapes = boxes(drawing(rich))
    for box in picture.boxes:
        expected = LIGHT.neutral if box.reply or box.lost else scale.color(box.group.mean)
        assert shapes[box.node].rect.fill == expected


@given(text=TEXT, place=st.integers(0, 10_000))
def test_svg_of_any_text_is_well_formed(words_tree, text, place):
    texts = [path for path in places(words_tree) if isinstance(at(words_tree, path), str) and path[-1] != "key"]
    ElementTree.fromstring(tree_svg(with_value(words_tree, texts[place % len(texts)], text)))


@pytest.fixture(scope="module")
def words_tree(folder):
    from recipe.treepo.dumps.reader import Dump

    dump = Dump(folder)
    dump.refresh()
    tree = dump.load(dump.trees()[-1])
    return tree | {"vocabulary": {}}


def at(value, path):
    for key in path:
        value = value[key]
    return value


def test_the_image_agrees_with_the_svg(rich):
    picture = drawing(rich, header=False)
    image = tree_image(rich, header=False)
    assert image.size == (picture.width, picture.height)
    for shape in boxes(picture).values():
        rect: Rect = shape.rect
        if rect.width > 8 and shape.hatch is None:
            # The lower right corner of the box has neither text nor mark.
            pixel = image.getpixel((round(rect.x + rect.width) - 3, round(rect.y + rect.height) - 3))
            assert "#{:02x}{:02x}{:02x}".format(*pixel) == rect.fill
    assert tree_image(rich, width=400, height=120, theme="dark").size == (400, 120)


def test_a_given_height_is_kept(rich):
    root = ElementTree.fromstring(tree_svg(rich, width=700, height=300))
    assert (root.get("width"), root.get("height")) == ("700", "300")


@pytest.mark.parametrize(
    ("tokens", "most", "step"), [(256, 13, 20), (7168, 13, 1000), (0, 5, 1), (9, 9, 1), (10, 9, 2)]
)
def test_ticks_by_hand(tokens, most, step):
    assert tick_step(tokens, most) == step


def test_unknown_words_are_named(rich):
    with pytest.raises(ValueError, match="theme=blue: must be light or dark"):
        tree_svg(rich, theme="blue")
    with pytest.raises(ValueError, match="color_by=size: must be one of reward"):
        tree_image(rich, color_by="size")
