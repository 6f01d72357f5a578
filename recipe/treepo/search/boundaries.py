# SPDX-License-Identifier: Apache-2.0
"""Positions of segment boundaries on a path: arithmetic only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """Segment boundaries of all paths of one tree.

    Attributes:
        segment_length: Tokens of a segment.
        cache_block: Tokens of a block of the engine's prefix cache, None for segments of equal length.
        prompt_length: Tokens of the prompt.
        response_length: Maximum tokens of a response.
        depth: Maximum segments on a path.
    """

    segment_length: int
    cache_block: int | None
    prompt_length: int
    response_length: int
    depth: int

    def tokens_to(self, count: int, *, end: int, segments: int, begun: int) -> int:
        """Return the number of tokens from the end of a path to the ``count``-th boundary after it.

        Args:
            count: Number of the boundary, from 1.
            end: Response tokens on the path.
            segments: Complete segments on the path.
            begun: Tokens of an incomplete last segment, 0 at a boundary.
        """
        if self.cache_block is None:
            return count * self.segment_length - begun
        return self._shifted(segments + count, self.cache_block) - end

    def _shifted(self, segments: int, block: int) -> int:
        """Return the number of response tokens at the end of segment ``segments``.

        Near a multiple of ``segment_length``, shifted so that all earlier tokens but the last fill whole cache blocks
        (the last token's KV does not exist yet).
        """
        end = segments * self.segment_length
        if segments >= self.depth:
            return end
        beyond = (self.prompt_length + end - 1) % block
        shifted = end - beyond + (block if 2 * beyond > block else 0)
        return shifted if shifted < self.response_length else end
