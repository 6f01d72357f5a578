# SPDX-License-Identifier: Apache-2.0
"""Seeds that follow from what they are for."""

import hashlib
from typing import Any


def derive_seed(*parts: Any) -> int:
    """Return 64 bits that depend on all ``parts`` and on nothing else, equal in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
