# SPDX-License-Identifier: Apache-2.0
"""Names of verl's sockets for weights that differ between the runs of one machine.

verl names them by Ray's job number, which is 1 in each cluster that a run starts. A second run removes the first one's
socket and takes its name, and both then wait for ever. verl has no setting for the name, so this file changes it in
both classes that use it; ``plugin.py`` imports it after them, in trainers and engines.
"""

import os
from functools import wraps
from typing import Any

from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender

from recipe.treepo.settings.schema import RUN_VARIABLE


def renamed(handle: str) -> str:
    """Return the name of a socket with the name of the run."""
    return handle.replace("rl-colocate-zmq-", f"rl-colocate-zmq-{os.environ.get(RUN_VARIABLE, '')}-", 1)


def _rename_in(used: Any) -> None:
    make = used.__init__

    @wraps(make)
    def __init__(self: Any, zmq_handle: str, *args: Any, **kwargs: Any) -> None:
        make(self, renamed(zmq_handle), *args, **kwargs)

    used.__init__ = __init__


_rename_in(BucketedWeightSender)
_rename_in(BucketedWeightReceiver)
