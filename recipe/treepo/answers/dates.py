# SPDX-License-Identifier: Apache-2.0
"""Compare dates and times of day. Standard library only."""

import re
from datetime import datetime

from recipe.treepo.answers.spelling import plain

_DATES = ("%d %B %Y", "%d %b %Y", "%B %d %Y", "%b %d %Y", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y年%m月%d日")
_TIMES = ("%I:%M:%S %p", "%I:%M %p", "%I %p", "%H:%M:%S", "%H:%M")
# Day and month in an order that depends on the country
_NUMBERS = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})")
_LIKE_A_DATE = re.compile(r"(?=.*[A-Za-z]{3})(?=.*\d)[\w ,.]{5,40}|\d{4}[-/.年].{3,6}")

Moment = tuple[int | str | None, ...]


def _parse(text: str, forms: tuple[str, ...]) -> datetime | None:
    for form in forms:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            pass
    return None


def read_date(text: str) -> Moment | None:
    """Return (year or None, month, day) of a date; ("", numbers) if the order of day and month is not known."""
    if match := _NUMBERS.fullmatch(text):
        return ("", int(match.group(1)), int(match.group(3)), int(match.group(4)))
    if not _LIKE_A_DATE.fullmatch(text):
        return None
    text = " ".join(re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|\b(?:of|on|in|the)\b|,|(?<=[a-z])\.", " ", text).split())
    date = _parse(text, _DATES)
    if date is None and (date := _parse(f"{text} 2000", _DATES[:4])):
        return (None, date.month, date.day)
    return None if date is None else (date.year, date.month, date.day)


def read_time(text: str) -> Moment | None:
    """Return ("AM", "PM" or None, hour before or after noon, minute, second) of a time of day."""
    text = text.casefold().removeprefix("at ").replace("noon", "pm").replace("midnight", "am")
    text = re.sub(r" ?([ap])\.?m\.?$", r" \1m", {"pm": "12:00 pm", "am": "12:00 am"}.get(text, text))
    time = _parse(text, _TIMES) if re.fullmatch(r"\d[\d: apm]{2,12}", text) else None
    if time is None:
        return None
    half = ("AM", "PM")[time.hour // 12] if text.endswith("m") or time.hour > 12 else None
    return (half, time.hour % 12, time.minute, time.second)


def _agree(moment: Moment, other: Moment) -> bool:
    """Compare two dates or times; the year, and the half of the day, may be missing on one side."""
    firsts = {moment[0], other[0]}
    return moment[1:] == other[1:] and (len(firsts) == 1 or (None in firsts and "" not in firsts))


def same_moments(answer: str, gold: str) -> bool | None:
    """Compare dates and times of day; a date is not a difference of numbers."""
    texts = plain(answer), plain(gold)
    date, gold_date = (read_date(text) for text in texts)
    if gold_date is not None:
        return date is not None and _agree(date, gold_date)
    time, gold_time = (read_time(text) for text in texts)
    named = any(re.search(r"[ap]\.?m\b|noon|midnight", text, re.IGNORECASE) for text in texts)
    return _agree(time, gold_time) if named and time and gold_time else None
