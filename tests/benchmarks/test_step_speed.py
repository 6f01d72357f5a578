# SPDX-License-Identifier: Apache-2.0
"""The benchmark of whole steps: summary of its rounds, and refusal of runs without timed steps."""

import shlex

import pytest

from benchmarks import step_speed
from helpers.composition import composed
from helpers.paths import ROOT
from recipe.treepo.settings.validate import validate


def step(update: float, whole: float, difference: float = 0.0, memory: float = 1.0) -> dict[str, float]:
    timers = {"gen": 1.0, "old_log_prob": 1.0, "adv": 0.0, "update_actor": update, "update_weights": 0.0, "step": whole}
    return {
        **{f"timing_s/{name}": value for name, value in timers.items()},
        "treepo/decoded_tokens": 100,
        "treepo/unique_over_total": 0.75,
        "training/rollout_probs_diff_max": difference,
        "actor/perf/max_memory_allocated_gb": memory,
        "actor/packing/unique_over_total": 0.5,
    }


def test_medians_are_over_the_steps_of_all_rounds_without_the_first_of_each():
    first = [step(90.0, 99.0, difference=0.3, memory=2.5), step(2.0, 10.0), step(4.0, 12.0)]
    second = [step(80.0, 99.0), step(7.0, 20.0), step(5.0, 30.0)]
    result = step_speed.summary("trees, packed", [first, second])
    assert result["timed_steps"] == 4
    assert result["update_actor"] == 4.5  # of 2 4 5 7
    assert result["step"] == 16  # of 10 12 20 30
    assert result["updates_of_rounds"] == [3, 6]
    assert result["difference"] == 0.3  # a wrong first step counts
    assert result["computed_in_update"] == 0.5
    assert result["memory"] == 2.5


def test_verls_engine_computes_all_tokens_in_the_update():
    steps = [step(1.0, 1.0), step(1.0, 1.0)]
    for record in steps:
        del record["actor/packing/unique_over_total"]  # only the packed engine reports it
    assert step_speed.summary("trees", [steps])["computed_in_update"] == 1.0


def test_times_are_in_percent_of_the_first_arms_step():
    plain = step_speed.summary("plain samples", [[step(0.0, 0.0), step(5.0, 10.0)]])
    packed = step_speed.summary("trees, packed", [[step(0.0, 0.0), step(2.0, 8.0)]])
    first, second = (line.strip("| ").split() for line in step_speed.table([plain, packed]).splitlines()[2:])
    assert " ".join(first).startswith("plain samples | 10.0% | 10.0% | 0.0% | 50.0% | 0.0% | 100.0% | 1.00 | 100 |")
    assert " ".join(second).startswith("trees, packed | 10.0% | 10.0% | 0.0% | 20.0% | 0.0% | 80.0% | 1.25 | 100 |")


@pytest.mark.parametrize("arm", step_speed.ARMS)
def test_runs_of_the_check_on_a_gpu_keep_the_rules(arm):
    script = (ROOT / "scripts/check_gpu.sh").read_text().replace("\\\n", " ")
    words = shlex.split(script[script.index("--preset gpu") :].splitlines()[0])
    options = step_speed.command_line().parse_args(words[: words.index("--report")])
    assert options.arms == ["plain samples", "trees", "trees, packed"] and options.steps == 10
    config = composed("platform=gpu", "preset=gpu", *step_speed.overrides(arm, options))
    settings = validate(config, check_files=False)
    assert settings.packed_training is ("packed" in arm)
    attention = config.actor_rollout_ref.model.override_config.attn_implementation
    assert attention == ("flex_attention" if "packed" in arm else "sdpa")


@pytest.mark.parametrize(("arguments", "said"), [(["--steps", "1"], "--steps 1"), (["--rounds", "0"], "--rounds 0")])
def test_unusable_timing_options_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        step_speed.main(arguments)
    assert said in capsys.readouterr().err
