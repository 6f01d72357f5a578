# SPDX-License-Identifier: Apache-2.0
"""Seeds derived from their purpose."""

import hashlib
from typing import Any


def derive_seed(*parts: Any) -> int:
    """Return 64 bits that depend only on ``parts`` and are equal in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
