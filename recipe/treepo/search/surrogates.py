# SPDX-License-Identifier: Apache-2.0
"""Texts of user code without lone surrogates (U+D800 to U+DFFF), which no tokenizer and no file accepts."""

import logging
from typing import Any

logger = logging.getLogger(__name__)
_WARNED: set[str] = set()  # sources of a warning in this process


def without_surrogates(value: Any, source: str) -> Any:
    """Return a text, or texts in lists and dicts, with U+FFFD for each lone surrogate.

    Both halves of a pair become their character. Other values are returned as they are.

    Args:
        source: Origin of the text, for a warning: once per process.
    """
    clean = _clean(value)
    if clean is not value and source not in _WARNED:
        _WARNED.add(source)
        logger.warning(
            "%s returned a text with surrogates (U+D800 to U+DFFF), which cannot be encoded: replaced by U+FFFD, also "
            "in later texts. Decode bytes with errors='replace'.",
            source,
        )
    return clean


def _clean(value: Any) -> Any:
    """Return ``value`` itself if there is nothing to replace."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, dict):
        items = [(_clean(key), _clean(below)) for key, below in value.items()]
        old = value.items()
        changed = any(key is not was or new is not below for (key, new), (was, below) in zip(items, old, strict=True))
        return dict(items) if changed else value
    if isinstance(value, list | tuple):
        parts = [_clean(below) for below in value]
        changed = any(new is not below for new, below in zip(parts, value, strict=True))
        return (parts if isinstance(value, list) else tuple(parts)) if changed else value
    return value
