# SPDX-License-Identifier: Apache-2.0
"""Failed rewards: rows to remove, messages, counts, missing trajectories, and the values of a validation."""

import logging
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verl.trainer.ppo.metric_utils import process_validation_metrics

from recipe.treepo.settings.schema import MissingPolicy, MissingSettings, RewardErrorPolicy, RewardErrorSettings
from recipe.treepo.verl_adapters.reward_errors import (
    MOST_CHARACTERS,
    RewardError,
    RewardErrors,
    check_missing,
    excerpt,
    number_of,
    usable_infos,
)

NAN, INF = float("nan"), float("inf")
PROMPTS = ["p", "p", "q", "q", "r"]
POLICY = RewardErrorPolicy


def errors(**settings: Any) -> RewardErrors:
    return RewardErrors(RewardErrorSettings(**settings), "reward function f of my.py")


def unknown(rows: list[int]) -> list[None]:
    return [None] * len(rows)


def describe(row: int) -> str:
    return f"prompt {PROMPTS[row]} 'How many?', response 'row {row}'"


@pytest.mark.parametrize(
    ("policy", "rewards", "rows"),
    [
        (POLICY.FAIL_TRAJECTORY, [0.0, 1.0, 1.0, -1e30, 2.0], set()),
        (POLICY.FAIL_TRAJECTORY, [NAN, 1.0, 1.0, INF, 2.0], {0, 3}),
        (POLICY.FAIL_TRAJECTORY, [0.0, 1.0, 1.0, 0.0, -INF], {4}),
        (POLICY.FAIL_PROMPT, [NAN, 1.0, 1.0, 0.0, 2.0], {0, 1}),
        (POLICY.FAIL_PROMPT, [NAN, 1.0, 1.0, 0.0, NAN], {0, 1, 4}),
        (POLICY.FAIL_RUN, [0.0] * 5, set()),
    ],
)
def test_rows_to_remove_by_hand(policy, rewards, rows):
    own = errors(policy=policy)
    assert own.removed(PROMPTS, rewards, describe, unknown) == rows
    failed = sum(not math.isfinite(reward) for reward in rewards)
    expected = {"treepo/reward_errors": failed, "treepo/removed_trajectories": len(rows)} if failed else {}
    assert own.metrics() == expected
    assert own.metrics() == {}


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from([0.0, 1.0, NAN, INF, -INF])), min_size=1))
def test_finite_rewards_of_other_prompts_are_never_removed(rows):
    prompts, rewards = [prompt for prompt, _ in rows], [reward for _, reward in rows]
    failed = {row for row, reward in enumerate(rewards) if not math.isfinite(reward)}
    touched = {prompts[row] for row in failed}
    for policy, expected in (
        (POLICY.FAIL_TRAJECTORY, failed),
        (POLICY.FAIL_PROMPT, {row for row, prompt in enumerate(prompts) if prompt in touched}),
    ):
        own = errors(policy=policy, max_share=1.0)
        if len(expected) == len(rows):
            with pytest.raises(RewardError, match="no trajectory is left"):
                own.removed(prompts, rewards, str, unknown)
        else:
            assert own.removed(prompts, rewards, str, unknown) == expected


def test_the_first_is_named_once_and_all_are_counted(caplog):
    own = errors()
    for _ in range(2):
        own.removed(PROMPTS, [0.0, 1.0, NAN, 0.0, INF], describe, unknown)
    assert [record.getMessage() for record in caplog.records] == [
        "treepo.reward_errors.policy=fail_trajectory: 2 of 5 rewards failed; further ones of this kind are only "
        "counted (treepo/reward_errors). reward function f of my.py returned nan for prompt q 'How many?', response "
        "'row 2'. "
        "Return a finite number for every response."
    ]
    assert own.metrics() == {"treepo/reward_errors": 4, "treepo/removed_trajectories": 4}


def test_the_first_of_each_kind_is_named(caplog):
    own = errors(max_share=1.0)
    reasons = ["raised ValueError: a", "raised ValueError: b", "raised KeyError: 'c'", None, "returned None"]
    for rows in ([1, 4], [0, 1, 2, 3]):
        rewards = [NAN if row in rows else 0.0 for row in range(5)]
        own.removed(PROMPTS, rewards, describe, lambda rows: [reasons[row] for row in rows])
    named = [record.getMessage().split("f of my.py ")[1].split(" for prompt")[0] for record in caplog.records]
    assert named == ["raised ValueError: b", "returned None", "raised KeyError: 'c'", "returned nan"]
    assert own.metrics() == {"treepo/reward_errors": 6, "treepo/removed_trajectories": 6}


@pytest.mark.parametrize(
    ("reward", "number"),
    [
        (1, 1.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (torch.tensor([2.0]), 2.0),
        (INF, INF),
        (None, "returned None"),
        ("1.0", "returned a str: '1.0'"),
        (b"1", "returned a bytes: \"b'1'\""),
        ([1.0], "returned a list: '[1.0]'"),
        (torch.zeros(2), "returned a Tensor: 'tensor([0., 0.])'"),
        (1j, "returned a complex: '1j'"),
        (10**400, f"returned a int: '1{'0' * 119}...'"),
    ],
)
def test_a_reward_is_a_number_or_the_reason_is_told(reward, number):
    assert number_of(reward) == number


@pytest.mark.parametrize(("trained", "is_told"), [(8, False), (4, False), (3, True), (0, True)])
@pytest.mark.parametrize("policy", MissingPolicy)
def test_more_missing_trajectories_than_allowed_are_told_or_end_the_run(policy, trained, is_told, caplog):
    settings = MissingSettings(policy=policy)
    says = f"treepo.missing_trajectories.max_share=0.5: a batch has {trained} of 8 trajectories."
    if is_told and policy is MissingPolicy.FAIL_RUN:
        with pytest.raises(RewardError, match=says):
            check_missing(settings, trained, 8)
    else:
        check_missing(settings, trained, 8)
        assert (says in caplog.text) is is_told


@pytest.mark.parametrize(
    ("settings", "rewards", "says"),
    [
        (
            {"policy": POLICY.FAIL_RUN},
            [0.0, NAN, 0.0, 0.0, 0.0],
            r"policy=fail_run: 1 of 5 .* nan for prompt p",
        ),
        ({}, [NAN, NAN, 0.0, 0.0, -INF], r"max_share=0\.5: 3 of 5 rewards .* these are too many"),
        ({"max_share": 0.3}, [0.0, 0.0, INF, 0.0, NAN], r"max_share=0\.3: 2 of 5 rewards .* returned inf for prompt q"),
        ({"max_share": 1.0}, [NAN] * 5, r"no trajectory is left"),
    ],
)
def test_the_run_ends_with_the_first_reward_in_the_message(settings, rewards, says):
    with pytest.raises(RewardError, match=says) as caught:
        errors(**settings).removed(PROMPTS, rewards, describe, unknown)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # Ray sends it to the driver


def test_exactly_the_largest_share_is_allowed():
    assert errors(max_share=0.4).removed(PROMPTS, [0.0, NAN, NAN, 0.0, 0.0], describe, unknown) == {1, 2}


def test_excerpts_stay_on_one_line():
    assert excerpt("two\nlines") == r"'two\nlines'"
    assert excerpt("x" * 500) == repr("x" * MOST_CHARACTERS + "...")


# --- validation ------------------------------------------------------------------------------------------------


def test_values_of_a_validation_by_hand():
    infos = {
        "reward": [1.0, NAN, 0.5, 1.0],
        "acc": [1.0, 1.0, INF, None],
        "score": [1.0, NAN, 0.5, 1.0],
        "length": [3, np.float32("nan"), torch.tensor(INF), 10**400],
        "pred": ["nan", "inf", None, "4"],
    }
    assert usable_infos(infos) == {
        "reward": [1.0, None, 0.5, 1.0],
        "acc": [1.0, 0.0, 0.0, None],
        "score": [1.0, None, 0.5, 1.0],
        "length": [3, None, None, 10**400],
        "pred": ["nan", "inf", None, "4"],
    }


NUMBERS = st.sampled_from([0.0, 1.0, NAN, INF, -INF])


@given(st.lists(st.tuples(st.sampled_from("uv"), NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_verls_validation_metrics_are_finite(rows):
    uids, infos = [uid for uid, *_ in rows], {"reward": [row[1] for row in rows], "acc": [row[2] for row in rows]}
    counts = {("d", uid): uids.count(uid) for uid in uids}
    found = process_validation_metrics(["d"] * len(rows), uids, usable_infos(infos), expected_acc_counts=counts)["d"]
    assert all(math.isfinite(value) for metrics in found.values() for value in metrics.values())
    right = [acc == 1.0 and math.isfinite(reward) for _, reward, acc in rows]
    if len(set(counts.values())) == 1:
        n = counts["d", uids[0]]
        assert found["acc"][f"mean@{n}"] == pytest.approx(sum(right) / len(rows))


def test_a_validation_warns_too(caplog):
    caplog.set_level(logging.WARNING)
    assert errors().check([1.0, NAN], describe, unknown) == [1]
    assert "returned nan for prompt p 'How many?', response 'row 1'" in caplog.text
