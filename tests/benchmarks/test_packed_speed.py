# SPDX-License-Identifier: Apache-2.0
"""The benchmark of packed training: its comparison of both engines' numbers."""

from argparse import Namespace

import pytest
import torch

from benchmarks import packed_speed
from helpers.process_group import lone_process

SIZES = {"hidden": 128, "layers": 2, "vocabulary": 500, "prompts": 1, "prompt_length": 16, "tokens": 4096}
OPTIONS = Namespace(**SIZES, dtype="fp32", attention="sdpa", checkpointing=False)


def test_differences_are_those_of_the_engines(tmp_path):
    data = packed_speed.make_data(packed_speed.make_rows("tree, n 8", OPTIONS), OPTIONS)
    with lone_process(tmp_path):
        engines = {name: packed_speed.build(name, OPTIONS) for name in packed_speed.ENGINES}
        log_probs, gradients = packed_speed.differences(engines, data)
        assert log_probs < 1e-5 and gradients < 1e-5
        with torch.no_grad():
            for parameter in engines["packed"].module.parameters():
                parameter.mul_(1.01)
        log_probs, gradients = packed_speed.differences(engines, data)
        assert log_probs > 1e-3 and 1e-3 < gradients < 1


@pytest.mark.parametrize(("found", "expected"), [(1e-4, True), (2e-3, False), (float("nan"), False)])
def test_engines_agree_up_to_the_limit(found, expected):
    results = [{"differences": [0.0, 0.0]}, {"differences": [0.0, found]}]
    assert packed_speed.agree(results, 1e-3) is expected
