# SPDX-License-Identifier: Apache-2.0
"""Lines of JSON in a gzip file, each with a summary that is readable without decompressing the line.

A file is an ordinary ``.jsonl.gz``: ``zcat`` prints its lines. Each line is a gzip member of its own, and the member's
header (RFC 1952, section 2.3.1.1, "extra field") holds its size and the summary. A reader can thus list thousands of
trees fast, load one by its offset, and skip a line that is still being written.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SUMMARY_BYTES = 60_000
"""The extra field of a gzip header holds 65,535 bytes."""
MOST_LINE_BYTES = 512 * 2**20
"""Longer lines are not loaded: a damaged file must not exhaust memory."""
_HEADER = struct.Struct("<4sIBBH")  # magic with method and flags, time, extra flags, system, length of the extra field
_FIELD = struct.Struct("<2sHI")  # name and length of the field; size of the whole member
_TRAILER = struct.Struct("<II")  # checksum and length of the line
_MAGIC = b"\x1f\x8b\x08\x04"  # gzip, deflate, with an extra field
_NAME = b"TP"


class DumpError(ValueError):
    """The file is not a dump of trees, or has another format."""


@dataclass(frozen=True, slots=True)
class Member:
    """Location of one line.

    Attributes:
        path: The file.
        offset, size: Position and size of the member, in bytes.
        summary: Summary in the header.
    """

    path: Path
    offset: int
    size: int
    summary: Mapping[str, Any]


def pack(line: Mapping[str, Any], summary: Mapping[str, Any]) -> bytes:
    """Return a line as a gzip member with its summary.

    Raises:
        ValueError: if the summary is too long, or a value cannot be written as JSON.
    """
    text = json.dumps(line, allow_nan=False).encode("ascii") + b"\n"
    extra = json.dumps(summary, allow_nan=False).encode("ascii")
    if len(extra) > MOST_SUMMARY_BYTES:
        raise ValueError(f"the summary has {len(extra)} bytes; at most {MOST_SUMMARY_BYTES} fit")
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(text) + packer.flush()
    length = 4 + len(extra)  # of the field's content
    size = _HEADER.size + 4 + length + len(body) + _TRAILER.size
    return b"".join(
        (
            _HEADER.pack(_MAGIC, 0, 0, 255, 4 + length),
            _FIELD.pack(_NAME, length, size),
            extra,
            body,
            _TRAILER.pack(zlib.crc32(text), len(text) % 2**32),
        )
    )


def members(path: Path, start: int = 0) -> Iterator[Member]:
    """Yield the complete members of a file from byte ``start`` on, without decompressing them.

    Raises:
        DumpError: if the file was not written by :func:`pack`.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        while start + _HEADER.size + _FIELD.size <= length:
            file.seek(start)
            magic, *_, extra = _HEADER.unpack(file.read(_HEADER.size))
            name, content, size = _FIELD.unpack(file.read(_FIELD.size))
            if magic != _MAGIC or name != _NAME or extra != 4 + content or size < _HEADER.size + 4 + content:
                raise DumpError(f"{path} is not a dump of trees: no line starts at byte {start}")
            if start + size > length:
                return
            try:
                summary = _parse(file.read(content - 4))
            except ValueError as error:
                raise DumpError(f"{path} is damaged: the summary at byte {start} is not JSON") from error
            if not isinstance(summary, dict):
                raise DumpError(f"{path} is damaged: the summary at byte {start} is not a mapping")
            yield Member(path, start, size, summary)
            start += size


def load(member: Member) -> dict[str, Any]:
    """Return the line of a member.

    Raises:
        DumpError: if it is damaged or longer than :data:`MOST_LINE_BYTES`.
    """
    with member.path.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    try:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: with gzip's header and checksum
        text = unpacker.decompress(data, MOST_LINE_BYTES)
        if len(text) == MOST_LINE_BYTES and not unpacker.eof:
            raise DumpError(f"{member.path}: the line at byte {member.offset} has more than {MOST_LINE_BYTES} bytes")
        line = _parse(text if unpacker.eof else b"")
    except (zlib.error, ValueError) as error:
        if isinstance(error, DumpError):
            raise
        raise DumpError(f"{member.path} is damaged: the line at byte {member.offset} cannot be read") from error
    if not isinstance(line, dict):
        raise DumpError(f"{member.path} is damaged: the line at byte {member.offset} is not a mapping")
    return line


def _parse(text: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: if the text is damaged or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
