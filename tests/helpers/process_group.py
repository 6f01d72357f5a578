# SPDX-License-Identifier: Apache-2.0
"""A torch process group with this process alone, for verl's engines."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def lone_process(folder: Path) -> Iterator[None]:
    """Hold a process group of one process, with its store in ``folder``."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
