# SPDX-License-Identifier: Apache-2.0
"""Sockets for weights: both ends of a run have the same name, two runs have different ones."""

import pytest
import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender

from recipe.treepo.settings.schema import RUN_VARIABLE
from recipe.treepo.verl_adapters import transfer_names

HANDLE = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-1.sock"


@pytest.mark.parametrize("run", ["1a2b3c4d", "5e6f7a8b"])
def test_both_ends_have_the_name_of_the_run(run, monkeypatch):
    assert transfer_names.renamed("ipc:///tmp/other.sock") == "ipc:///tmp/other.sock"
    monkeypatch.setenv(RUN_VARIABLE, run)
    ends = (
        BucketedWeightSender(HANDLE, use_shm=True),
        BucketedWeightReceiver(zmq_handle=HANDLE, device=torch.device("cpu")),
    )
    expected = f"ipc:///tmp/rl-colocate-zmq-{run}-01000000-replica-0-rank-1.sock"
    assert [end.zmq_handle for end in ends] == [expected] * 2
    assert len(expected) < 107  # the longest path of a socket
