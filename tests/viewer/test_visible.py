# SPDX-License-Identifier: Apache-2.0
"""No character of a text can affect its reader."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.viewer.visible import one_line, visible, visible_values


def acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\n\t"


def test_no_hidden_character_of_unicode_stays_and_no_other_changes():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        shown = visible(character)
        assert not any(map(acts, shown)), hex(code)
        if acts(character):
            assert shown != character
        # Noncharacters and the plane of invisible tags are not letters either.
        elif shown != character:
            assert unicodedata.category(character) in ("Cn", "Mn"), hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b\x1b[31m", "a␀b␛[31m"),
        ("\x7f\x85", "␡⟨U+0085⟩"),
        ("\u202eabc\u2069", "⟨U+202E⟩abc⟨U+2069⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("line\r\n\tnext", "line␍\n\tnext"),
        ("\U000e0041\ufeff", "⟨U+E0041⟩⟨U+FEFF⟩"),
        ("é 中 😀 שלום", "é 中 😀 שלום"),
    ],
)
def test_visible_text(text, shown):
    assert visible(text) == shown


TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates, too


@given(first=TEXT, second=TEXT)
def test_a_text_is_changed_character_by_character(first, second):
    assert visible(first + second) == visible(first) + visible(second)
    assert visible(visible(first)) == visible(first)
    visible(first).encode("utf-8")


@given(
    value=st.recursive(
        TEXT | st.integers() | st.none(), lambda below: st.lists(below) | st.dictionaries(TEXT, below), max_leaves=5
    )
)
def test_texts_and_keys_within_a_value_are_changed(value):
    assert not any(acts(character) for character in repr(visible_values(value)))


@given(text=TEXT, most=st.integers(1, 50))
def test_a_line_is_one_short_line(text, most):
    line = one_line(text, most)
    assert len(line) <= most and "\n" not in line and not any(map(acts, line))


def test_a_cut_line_is_marked():
    assert one_line("a  b\nc", 9) == "a b c"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("a" + " " * 40 + "b", 4) == "a…"
