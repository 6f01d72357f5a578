# SPDX-License-Identifier: Apache-2.0
"""Estimators as called by verl: random trees against an independent recursion, depth 1 against verl's own."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
from verl.utils.torch_functional import masked_whiten

from helpers.example_counts import examples
from helpers.tree_oracle import forests, token_credits
from recipe.treepo.advantages import current_forest
from recipe.treepo.advantages.batch import tree_batch
from recipe.treepo.advantages.options import Aggregation, ChainCounting
from recipe.treepo.search.policy_calls import PolicyError
from recipe.treepo.settings.schema import (
    CUSTOM_ESTIMATOR,
    TREE_ESTIMATORS,
    AdvantageSettings,
    Normalization,
    StalePolicy,
    StaleTokenSettings,
)
from recipe.treepo.verl_adapters.estimators import shared_token_weights, stale_token_weights

BUILT_IN = [estimator for estimator in TREE_ESTIMATORS if estimator != CUSTOM_ESTIMATOR]


def outcome(rewards: list[float], lengths: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rewards at the last token of each row, and the mask of response tokens."""
    token_rewards, mask = torch.zeros(len(rewards), width), torch.zeros(len(rewards), width, dtype=torch.int64)
    for row, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        token_rewards[row, length - 1] = reward
        mask[row, :length] = 1
    return token_rewards, mask


def run(estimator, rewards, mask, prompts, paths, *, divide_by_std=True, **options) -> torch.Tensor:
    config = OmegaConf.create({"norm_adv_by_std_in_grpo": divide_by_std})
    with tree_batch(paths, AdvantageSettings(**options)):
        advantages, returns = get_adv_estimator_fn(estimator)(
            token_level_rewards=rewards, response_mask=mask, index=np.array(prompts, dtype=object), config=config
        )
    assert returns is advantages
    return advantages


OPTIONS = st.fixed_dictionaries(
    {
        "aggregation": st.sampled_from(Aggregation),
        "chains": st.sampled_from(ChainCounting),
        "root_group": st.booleans(),
        "equal_groups": st.booleans(),
        "parent_decay": st.sampled_from([1.0, 0.9, 0.5]),
        "divide_by_std": st.booleans(),
    }
)


@examples(short=80, long=200)
@given(forests(), st.sampled_from(BUILT_IN), OPTIONS, st.randoms(use_true_random=False))
def test_every_token_of_random_trees_has_the_credit_of_the_formulas(forest, estimator, options, random):
    prompts, paths, rewards, lengths = forest
    width = max(lengths) + random.randint(0, 2)
    token_rewards, mask = outcome(rewards, lengths, width)
    # Tokens of tools or users are not trained, at any position.
    mask = mask * torch.tensor([[int(random.random() < 0.8) for _ in range(width)] for _ in prompts])
    expected = torch.tensor(token_credits(prompts, paths, rewards, width, estimator, options)) * mask
    ours = run(estimator, token_rewards, mask, prompts, paths, normalization=Normalization.NONE, **options)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)
    if mask.sum() < 2:
        return
    whitened = run(estimator, token_rewards, mask, prompts, paths, normalization=Normalization.WHITEN, **options)
    torch.testing.assert_close(whitened, masked_whiten(expected.double(), mask).float() * mask, atol=2e-4, rtol=1e-4)
    scaled = run(estimator, token_rewards, mask, prompts, paths, normalization=Normalization.STD, **options)
    deviation = expected[mask.bool()].double().std()
    torch.testing.assert_close(scaled, (expected / (deviation**2 + 1e-8).sqrt()).float(), atol=2e-4, rtol=1e-4)


@examples(short=50, long=100)
@given(
    st.integers(2, 20),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from(
        [
            ("treepo", "reinforce_plus_plus_baseline", {}),
            ("treepo_segment", "reinforce_plus_plus_baseline", {}),
            # the distance from the mean counts twice, from root and from parent; normalization removes the scale
            ("treerl", "reinforce_plus_plus_baseline", {"normalization": Normalization.WHITEN}),
            ("treerpo", "grpo", {}),
        ]
    ),
)
def test_at_depth_one_the_estimators_are_verls_own(rows, seed, with_paths, pair):
    ours, theirs, options = pair
    rng = np.random.default_rng(seed)
    prompts = [str(name) for name in rng.integers(0, 4, rows)]
    # Rewards are quarters: with tiny differences, verl's epsilon in the deviation would matter.
    rewards, mask = outcome((rng.integers(-12, 13, rows) / 4).tolist(), rng.integers(2, 9, rows).tolist(), 8)
    # One node per trajectory, or no nodes, as in verl's plain samples.
    paths = [[(row + 1, 0)] if with_paths else [] for row in range(rows)]
    expected, _ = get_adv_estimator_fn(theirs)(
        token_level_rewards=rewards, response_mask=mask, index=np.array(prompts, dtype=object)
    )
    torch.testing.assert_close(run(ours, rewards, mask, prompts, paths, **options), expected, atol=5e-5, rtol=1e-4)


def test_treerpo_without_division_is_verls_grpo_without_it():
    rewards, mask = outcome([0.0, 1.0, 1.0], [1, 2, 2], 2)
    prompts = ["p"] * 3
    expected, _ = get_adv_estimator_fn("grpo")(
        token_level_rewards=rewards, response_mask=mask, index=np.array(prompts), norm_adv_by_std_in_grpo=False
    )
    assert expected[0, 0] == pytest.approx(-2 / 3)
    ours = run("treerpo", rewards, mask, prompts, [[], [], []], divide_by_std=False)
    torch.testing.assert_close(ours, expected)


def test_credit_changes_at_the_tokens_where_nodes_begin():
    # Prompt p: node 1 has tokens 0 to 2, then 2 (tokens 3, 4) or 3 (token 3); node 4 alone has tokens 0 and 1.
    paths = [[(1, 0), (2, 3)], [(1, 0), (3, 3)], [(4, 0)]]
    rewards, mask = outcome([0.0, 1.0, 1.0], [5, 4, 2], 6)
    none = {"normalization": Normalization.NONE}
    # Leaves by group size: a (3 * -2/3 + 2 * -1/2) / 5 = -3/5, b (3 * 1/3 + 2 * 1/2) / 5 = 2/5, c 1/3.
    # Node 1: -1/10; the root (-1/10 + 1/3) / 2 = 7/60.
    one, two, three, four = -1 / 10 - 7 / 60, -3 / 5 + 1 / 10, 2 / 5 + 1 / 10, 1 / 3 - 7 / 60
    expected = [[one] * 3 + [two] * 2 + [0], [one] * 3 + [three, 0, 0], [four] * 2 + [0] * 4]
    ours = run("treepo_segment", rewards, mask, ["p"] * 3, paths, **none)
    torch.testing.assert_close(ours, torch.tensor(expected))


def test_a_split_that_led_nowhere_changes_nothing():
    # Node 9 is a part of node 2: a path resumed there, but the batch has none of its trajectories.
    rewards, mask = outcome([0.0, 1.0, 1.0], [5, 4, 2], 5)
    whole = [[(1, 0), (2, 3)], [(1, 0), (3, 3)], [(4, 0)]]
    split = [[(1, 0), (9, 3), (2, 4)], [(1, 0), (3, 3)], [(4, 0)]]
    for estimator in BUILT_IN:
        torch.testing.assert_close(*(run(estimator, rewards, mask, ["p"] * 3, paths) for paths in (whole, split)))


def test_padding_rows_of_verl_get_nothing_and_change_nothing():
    # verl pads a batch with copies of a row that have their own prompt id, no reward and an empty mask; the trainer
    # removes their path.
    rewards, mask = outcome([0.0, 1.0, 1.0], [5, 4, 2], 5)
    paths = [[(1, 0), (2, 3)], [(1, 0), (3, 3)], [(4, 0)]]
    filled_rewards, filled_mask = torch.cat([rewards, torch.zeros(2, 5)]), torch.cat([mask, torch.zeros_like(mask[:2])])
    for estimator in BUILT_IN:
        alone = run(estimator, rewards, mask, ["p"] * 3, paths)
        filled = run(estimator, filled_rewards, filled_mask, ["p"] * 3 + ["pad"] * 2, [*paths, [], []])
        torch.testing.assert_close(filled, torch.cat([alone, torch.zeros(2, 5)]))


def test_trees_of_equal_prompts_are_two_groups_and_two_first_nodes_are_one():
    rewards, mask = outcome([0.0, 1.0, 1.0, 1.0], [1] * 4, 1)
    none = {"normalization": Normalization.NONE}
    tree = [[(1, 0), (2, 0)], [(1, 0), (3, 0)]]
    # verl draws a new id for each use of a prompt: means 1/2 and 1.
    drawn_twice = run("treepo", rewards, mask, ["uid-1", "uid-1", "uid-2", "uid-2"], tree + tree, **none)
    assert drawn_twice[:, 0].tolist() == pytest.approx([-1 / 2, 1 / 2, 0, 0])
    # The mean of all is 3/4; below node 1 it is 1/2, below node 4 it is 1.
    one_id = run("treepo", rewards, mask, ["uid"] * 4, [*tree, [(4, 0), (5, 0)], [(4, 0), (6, 0)]], **none)
    assert one_id[:, 0].tolist() == pytest.approx([(-3 / 4 - 1 / 2) / 2, (1 / 4 + 1 / 2) / 2, 1 / 8, 1 / 8])


def test_published_normalization_whitens_for_treepo_and_leaves_the_neighbours_alone():
    rewards, mask = outcome([0.0, 1.0, 1.0], [5, 4, 2], 5)
    batch = rewards, mask, ["p"] * 3, [[(1, 0), (2, 3)], [(1, 0), (3, 3)], [(4, 0)]]
    for estimator, published in (
        ("treepo", Normalization.WHITEN),
        ("treepo_segment", Normalization.WHITEN),
        ("treerl", Normalization.NONE),
        ("treerpo", Normalization.NONE),
    ):
        assert run(estimator, *batch).equal(run(estimator, *batch, normalization=published))


def test_whitening_gives_response_tokens_mean_zero_and_variance_one():
    rewards, mask = outcome([-1.0, -1, -1, 1, 1], [1, 2, 3, 4, 5], 6)
    tokens = run("treepo", rewards, mask, ["p"] * 5, [[]] * 5)[mask.bool()]
    assert tokens.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert tokens.var().item() == pytest.approx(1.0, abs=1e-5)


def test_a_variance_of_less_than_two_tokens_is_refused():
    rewards, mask = outcome([1.0], [1], 3)
    with pytest.raises(ValueError, match=r"normalization=whiten: needs at least two response tokens"):
        run("treepo", rewards, mask, ["p"], [[]])
    assert run("treepo", rewards, mask, ["p"], [[]], normalization=Normalization.NONE)[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("estimator", BUILT_IN)
def test_without_paths_of_exactly_this_batch_the_estimators_refuse(estimator):
    rewards, mask = outcome([1.0, 0.0], [1, 1], 1)
    arguments = {"token_level_rewards": rewards, "response_mask": mask, "index": np.array(["p", "p"], dtype=object)}
    message = f"adv_estimator={estimator}: the trainer provides no tree paths.*trainer_mode=treepo_sync"
    with pytest.raises(RuntimeError, match=message):
        get_adv_estimator_fn(estimator)(**arguments)
    with pytest.raises(RuntimeError, match=message), tree_batch([[(1, 0)]], AdvantageSettings()):
        get_adv_estimator_fn(estimator)(**arguments)


# --- rewards that are not finite -------------------------------------------------------------------------------

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("lost", NOT_FINITE)
def test_a_reward_that_is_not_finite_costs_its_own_trajectory_only(lost):
    rewards, mask = outcome([0.0, 1.0, 1.0, 0.0, lost, 1.0, 1.0, 0.0], [1] * 8, 2)
    prompts, paths = ["p"] * 4 + ["q"] * 4, [[(row % 4 + 1, 0)] for row in range(8)]
    # p: mean 1/2. q without its first: mean 2/3. The seven tokens have mean 0, variance (4 / 4 + 2 / 9 + 4 / 9) / 6.
    plain = [-1 / 2, 1 / 2, 1 / 2, -1 / 2, 0, 1 / 3, 1 / 3, -2 / 3]
    whitened = [value / (5 / 18) ** 0.5 for value in plain]
    for normalization, expected in ((Normalization.NONE, plain), (Normalization.WHITEN, whitened)):
        ours = run("treepo", rewards, mask, prompts, paths, normalization=normalization)
        assert ours[:, 0].tolist() == pytest.approx(expected, abs=1e-6) and not ours[:, 1].any()


def test_a_tree_without_a_failed_trajectory_has_the_credit_of_the_rest_by_hand():
    # Node 1 holds rows 0 to 2, node 4 row 3. Without row 0, node 1 has the group (1, 0), the prompt (1, 0, 1).
    paths = [[(1, 0), (2, 1)], [(1, 0), (3, 1)], [(1, 0), (5, 1)], [(4, 0)]]
    rewards, mask = outcome([float("nan"), 1.0, 0.0, 1.0], [2] * 4, 2)
    ours = run("treepo", rewards, mask, ["p"] * 4, paths, normalization=Normalization.NONE)
    expected = [0, (1 / 3 + 1 / 2) / 2, (-2 / 3 - 1 / 2) / 2, 1 / 3]
    assert ours[:, 0].tolist() == pytest.approx(expected) and ours[:, 1].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("estimator", BUILT_IN)
def test_a_batch_without_any_finite_reward_has_no_advantage(estimator):
    token_rewards, mask = outcome(NOT_FINITE, [2, 1, 2], 2)
    token_rewards[1] = torch.tensor([float("inf"), float("-inf")])
    assert run(estimator, token_rewards, mask, ["p", "p", "q"], [[]] * 3).tolist() == [[0.0, 0.0]] * 3


@examples(short=80, long=200)
@given(forests(), st.sampled_from(BUILT_IN), OPTIONS, st.sampled_from(Normalization), st.data())
def test_rows_without_a_finite_reward_are_as_if_they_had_not_been_sampled(forest, estimator, options, norm, data):
    prompts, paths, rewards, lengths = forest
    lost = data.draw(st.lists(st.booleans(), min_size=len(prompts), max_size=len(prompts)))
    values = [data.draw(st.sampled_from(NOT_FINITE)) if gone else own for gone, own in zip(lost, rewards, strict=True)]
    kept = [row for row, gone in enumerate(lost) if not gone]
    assume(sum(lengths[row] for row in kept) >= 2)
    token_rewards, mask = outcome(values, lengths, max(lengths))
    options = {**options, "normalization": norm}
    ours = run(estimator, token_rewards, mask, prompts, paths, **options)
    named, path_of = [prompts[row] for row in kept], [paths[row] for row in kept]
    torch.testing.assert_close(ours[kept], run(estimator, token_rewards[kept], mask[kept], named, path_of, **options))
    assert not ours[np.flatnonzero(lost)].any()
    # Other prompts: with normalization over the batch, the faults of one prompt change a common scale only.
    if norm is Normalization.NONE:
        whole = run(estimator, *outcome(rewards, lengths, max(lengths)), prompts, paths, **options)
        touched = {prompt for prompt, gone in zip(prompts, lost, strict=True) if gone}
        others = [row for row, prompt in enumerate(prompts) if prompt not in touched]
        torch.testing.assert_close(ours[others], whole[others])


# --- weights of shared tokens ----------------------------------------------------------------------------------


def test_shared_tokens_weigh_one_over_the_rows_that_hold_them():
    # Node 1 (tokens 0 to 2) in two rows, one of them repeated; node 4 and a row without a path have their own.
    paths = [[(1, 0), (2, 3)], [(1, 0), (3, 3)], [(1, 0), (3, 3)], [(4, 0)], []]
    weights = shared_token_weights(["p"] * 5, paths, 5)
    half, third = 1 / 2, 1 / 3
    expected = [[third] * 3 + [1] * 2] + [[third] * 3 + [half] * 2] * 2 + [[1] * 5] * 2
    torch.testing.assert_close(weights, torch.tensor(expected))


@examples(short=30, long=50)
@given(forests())
def test_each_unique_token_weighs_one_in_all(forest):
    prompts, paths, _, lengths = forest
    weights = shared_token_weights(prompts, paths, max(lengths))
    unique = {}
    for row, (prompt, path, length) in enumerate(zip(prompts, paths, lengths, strict=True)):
        for token in range(length):
            node = [name for name, begin in path if begin <= token][-1] if path else ("own", row)
            unique[prompt, node, token] = unique.get((prompt, node, token), 0.0) + weights[row, token].item()
    assert list(unique.values()) == pytest.approx([1.0] * len(unique))


# --- weights of stale tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "by_age"),
    [
        ({"policy": StalePolicy.KEEP, "max_age": 0}, [1, 1, 1, 1]),
        ({"policy": StalePolicy.MASK, "max_age": 0}, [1, 0, 0, 0]),
        ({"policy": StalePolicy.MASK}, [1, 1, 0, 0]),
        ({"policy": StalePolicy.DECAY, "max_age": 1, "decay": 0.5}, [1, 1, 0.5, 0.25]),
        ({"policy": StalePolicy.DECAY, "max_age": 2, "decay": 0.1}, [1, 1, 1, 0.1]),
    ],
)
def test_stale_tokens_weigh_what_the_policy_says(options, by_age):
    zero, one, two, three = by_age
    # Node 1 (tokens 0 to 2) is three steps old; its continuations are two steps old and new. A plain sample is one.
    paths, ages = [[(1, 0), (2, 3)], [(1, 0), (3, 3)], [], []], [[3, 2], [3, 0], [1], []]
    weights = stale_token_weights(["p"] * 4, paths, ages, StaleTokenSettings(**options), 5)
    expected = [[three] * 3 + [two] * 2, [three] * 3 + [zero] * 2, [one] * 5, [zero] * 5]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_masking_stale_tokens_leaves_the_gradient_of_the_new_ones():
    """Exact expected gradients of a policy with known probabilities, whose first token old weights have sampled.

    A response is two tokens of {0, 1}; the reward is 1 for (1, 1). The policy has three logits: of token 1 at first,
    after a 0, and after a 1. Each policy's expected gradient is the sum over the four responses.
    """
    old_first, logits = 0.2, torch.tensor([0.0, 0.5, -0.5], requires_grad=True)

    def gradient(**options) -> list[float]:
        settings, total = StaleTokenSettings(**options), 0.0
        for first, second in itertools.product((0, 1), repeat=2):
            own = torch.sigmoid(logits)
            after = own[1 + first]
            sampled = (old_first if first else 1 - old_first) * (after if second else 1 - after).item()
            chosen = torch.stack([own[0] if first else 1 - own[0], after if second else 1 - after])
            # two segments of a token each, the first one is a step old
            (weights,) = stale_token_weights(["p"], [[(1, 0), (2 + second, 1)]], [[1, 0]], settings, 2)
            total = total + sampled * (first * second) * (weights * chosen.log()).sum()
        return torch.autograd.grad(total, logits)[0].tolist()

    # d/dz log sigmoid(z) = 1 - sigmoid(z). Only (1, 1) pays, with probability 0.2 * sigmoid(-0.5).
    pays = 0.2 / (1 + math.exp(0.5))
    of_first, of_second = pays * 0.5, pays * (1 - 1 / (1 + math.exp(0.5)))
    assert gradient(policy=StalePolicy.KEEP, max_age=0) == pytest.approx([of_first, 0.0, of_second])
    assert gradient(policy=StalePolicy.MASK, max_age=0) == pytest.approx([0.0, 0.0, of_second])
    assert gradient(policy=StalePolicy.DECAY, max_age=0, decay=0.25) == pytest.approx([of_first / 4, 0.0, of_second])
    assert gradient(policy=StalePolicy.MASK, max_age=1) == pytest.approx([of_first, 0.0, of_second])


# Two prompts; prompt a branches into 1 and 2 after a shared segment, b has a lone trajectory.
OWN_PATHS = [[(1, 0), (2, 2)], [(1, 0), (3, 2)], [(1, 0)]]
OWN_PROMPTS = ["a", "a", "b"]


def custom(credit, **options) -> torch.Tensor:
    """Return the advantages of three trajectories with four tokens and the rewards 1, 0 and 3."""
    rewards, mask = outcome([1.0, 0.0, 3.0], [4, 4, 4], 4)
    with tree_batch(OWN_PATHS, AdvantageSettings(**options), credit):
        advantages, _ = get_adv_estimator_fn(CUSTOM_ESTIMATOR)(
            token_level_rewards=rewards, response_mask=mask, index=np.array(OWN_PROMPTS, dtype=object), config=None
        )
    return advantages


class LeafMinusParent:
    """A node's mean reward minus that of its parent."""

    def credit(self, forest, rewards):
        value = forest.at(forest.mean_over_group(rewards))
        return value - np.concatenate([value[:, :1], value[:, :-1]], axis=1)


def test_a_credit_of_the_user_reaches_the_tokens_of_its_nodes():
    # Values: root of a 0.5, its first segment 0.5 (the same trajectories), then 1 and 0; b has 3 everywhere.
    expected = [[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, -0.5, -0.5], [0.0, 0.0, 0.0, 0.0]]
    assert custom(LeafMinusParent()).tolist() == expected
    # The mean over the 12 tokens is 0 and the variance (4 x 0.25) / 11.
    scaled = [[number / math.sqrt(1 / 11 + 1e-8) for number in row] for row in expected]
    assert custom(LeafMinusParent(), normalization=Normalization.STD).tolist() == pytest.approx(np.array(scaled))


class Returns:
    """Credit with a given result."""

    def __init__(self, result) -> None:
        self._result = result

    def credit(self, forest, rewards):
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros(3), r"Returns.credit returned \(3,\): must have the shape \(trajectories, levels\), \(3, 3\)"),
        (
            np.array([[0, 0, 0], [0, 0, np.nan], [0, 0, 0]]),
            r"Returns.credit returned nan: must be a finite number \(prompt a, node 2 of trajectory 1 of the batch\)",
        ),
        (ValueError("no"), r"Returns.credit raised ValueError: no \(batch of 3 trajectories\)"),
        ("text", r"Returns.credit raised ValueError"),
    ],
)
def test_a_wrong_credit_ends_with_class_prompt_and_node(result, message):
    with pytest.raises(PolicyError, match=message):
        custom(Returns(result))


def test_without_a_class_the_custom_estimator_is_refused():
    with pytest.raises(RuntimeError, match="treepo_custom: needs a class"):
        custom(None)


def test_any_estimator_gets_the_trees_of_its_batch():
    index = np.array(OWN_PROMPTS, dtype=object)
    with tree_batch(OWN_PATHS, AdvantageSettings()):
        forest = current_forest(index)
    assert forest.trajectory_P.tolist() == [0, 1, 2]
    assert forest.at(forest.size_N).tolist() == [[2, 2, 1], [2, 2, 1], [1, 1, 0]]
    with pytest.raises(RuntimeError, match="no tree paths"):
        current_forest(index)
