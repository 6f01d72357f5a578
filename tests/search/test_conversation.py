# SPDX-License-Identifier: Apache-2.0
import asyncio
import json

import numpy as np
import pytest

from helpers.scripted_conversation import (
    AGAIN,
    CLOSING,
    REQUIRED,
    TURN,
    Chancy,
    FakeTokens,
    Recorded,
    Turns,
    encode,
    sizes,
    talk,
)
from helpers.scripted_engine import EOS
from recipe.treepo.advantages.credit import segment_credit, treerpo_credit
from recipe.treepo.advantages.forest import build_forest
from recipe.treepo.advantages.options import AdvantageOptions, Aggregation, ChainCounting
from recipe.treepo.interaction import ConversationRules, Interaction, OnError, Reply, Steps
from recipe.treepo.search import SearchError, SearchKind, SearchShape
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.verl_adapters.trajectory import trajectory_fields

# --- cost of trees of conversations ---------------------------------------------------------------------------------

# A turn is a segment. Calls per level: one at the root, then times the divergence up to 8. The last level has no reply.
# A shared step follows each path of every level but the last. With steps per branch, a step precedes each path of every
# level but the first.
COSTS = [
    (4, 2, [1, 2, 4, 8]),
    (4, 3, [1, 3, 8, 8]),
    (5, 2, [1, 2, 4, 8, 8]),
    (5, 3, [1, 3, 8, 8, 8]),
    (6, 2, [1, 2, 4, 8, 8, 8]),
    (6, 3, [1, 3, 8, 8, 8, 8]),
]


def test_the_levels_add_up_to_the_numbers_in_the_documentation():
    assert [sum(levels) for _, _, levels in COSTS] == [15, 20, 23, 28, 31, 36]


@pytest.mark.parametrize("steps", Steps)
@pytest.mark.parametrize("search", list(SearchKind))
@pytest.mark.parametrize(("depth", "divergence", "levels"), COSTS)
def test_without_early_ends_turns_cost_the_sum_of_their_levels(depth, divergence, levels, search, steps):
    interaction = Recorded()
    tree = talk(
        Turns(TURN), interaction, rules=ConversationRules(steps=steps), depth=depth, width=8, segment_length=100,
        response_length=1000, search=search, divergence=divergence, max_divergence=divergence, init_divergence=(1, 1),
    )  # fmt: skip
    assert tree.counters.engine_calls == sum(levels)
    assert tree.counters.steps == sum(levels[:-1] if steps is Steps.SHARED else levels[1:])
    assert sum(method == "step" for method, _ in interaction.contexts) == tree.counters.steps
    assert [tree.nodes[leaf].depth for leaf in tree.leaves] == [depth] * 8
    assert {tree.nodes[leaf].finish_reason for leaf in tree.leaves} == {FinishReason.DEPTH}


@pytest.mark.parametrize("steps", Steps)
@pytest.mark.parametrize("depth", [4, 5, 6])
def test_independent_loops_cost_every_turn_of_every_loop(depth, steps):
    shape = TreePOSettings(depth=depth).independent(8).shape(
        width=8, response_length=1000, progress=0.0, conversation=True
    )  # fmt: skip
    assert isinstance(shape, SearchShape)
    rules = shape.branching
    tree = talk(
        Turns(TURN), Recorded(), rules=ConversationRules(steps=steps), depth=depth, width=8, response_length=1000,
        segment_length=shape.segment_length, max_segments_per_request=shape.max_segments_per_request,
        search=shape.search, divergence=rules.divergence,
        max_divergence=rules.max_divergence, init_divergence=rules.init_divergence,
    )  # fmt: skip
    assert tree.counters.engine_calls == 8 * depth
    assert tree.counters.steps == 8 * (depth - 1)
    assert len(tree.nodes[ROOT].children) == 8


# --- tokens ---------------------------------------------------------------------------------------------------------


def only(tree):
    (leaf,) = tree.leaves
    return tree.path(leaf).response_ids, tree.path(leaf).response_mask, tree.nodes[leaf]


def test_an_ended_turn_is_followed_by_an_untrained_reply():
    tree = talk(Turns(TURN, [99, EOS[1]]), Recorded(), **sizes(width=1, depth=2))
    tokens, mask, leaf = only(tree)
    assert tokens == [*TURN, *AGAIN, 99, EOS[1]]
    assert mask == [1] * 3 + [0] * 6 + [1] * 2
    assert tree.path(leaf.index).logprobs[3:9] == [0.0] * 6
    assert trajectory_fields(tree)[0]["tree_turns"] == [{"messages": [{"role": "user", "content": "again"}]}]


def test_an_open_turn_gets_its_end_token_with_the_reply():
    cut = Chancy(goes_on=True)
    cut.decide_step = lambda context: [{"role": "user", "content": "again"}]
    tree = talk(Turns([97] * 9, TURN), cut, rules=ConversationRules(turn_length=4), **sizes(width=1, depth=2))
    tokens, mask, _ = only(tree)
    assert tokens == [97] * 4 + [CLOSING, *AGAIN, *TURN]
    assert mask == [1] * 4 + [0] * 7 + [1] * 3
    assert cut.contexts["check_finished", "0"].cut_off and not cut.contexts["check_finished", "0+.0"].cut_off


def test_a_turn_is_not_closed_where_the_chat_template_closes_none():
    cut = Chancy(goes_on=True)
    cut.decide_step = lambda context: [{"role": "user", "content": "again"}]
    rules = ConversationRules(turn_length=4)
    options = {"tokens": FakeTokens(closes=False), "end_token_id": None, **sizes(width=1, depth=2)}
    tree = talk(Turns([97] * 9, TURN), cut, rules=rules, **options)
    assert only(tree)[0] == [97] * 4 + [*AGAIN, *TURN]


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("steps", Steps)
def test_a_template_that_takes_back_the_end_trims_all_branches(steps, order):
    # Two branches continue from the first turn, in any order; the third ends the conversation.
    class Some(Recorded):
        def decide_step(self, context):
            return None if context.node == "0.1" else super().decide_step(context)

    interaction = Some(jitter=order)
    tree = talk(
        Turns(TURN), interaction, tokens=FakeTokens(takes_back=1, jitter=order), rules=ConversationRules(steps=steps),
        **sizes(width=3, depth=2, divergence=3),
    )  # fmt: skip
    tree.check()
    assert tree.counters.failed_steps == 0
    responses = sorted(tree.path(leaf).response_ids for leaf in tree.leaves)
    on = [*TURN[:2], *AGAIN, *TURN]
    assert responses == ([on] * 3 if steps is Steps.SHARED else [TURN[:2], on, on])
    assert tree.counters.overrun_tokens == 1
    for (method, _), taken in interaction.contexts.items():
        if method == "step":
            assert (taken.token_ids, taken.tokens_left) == (TURN, 197)


def test_a_template_cannot_take_back_a_whole_turn():
    with pytest.raises(SearchError, match="Recorded.step failed for prompt 7 at node 0.*takes back 3 tokens"):
        talk(
            Turns(TURN), Recorded(), tokens=FakeTokens(takes_back=3), rules=ConversationRules(on_error=OnError.FAIL),
            **sizes(),
        )  # fmt: skip


@pytest.mark.parametrize("steps", Steps)
@pytest.mark.parametrize(("room", "fits"), [(9, False), (10, True)])
def test_a_reply_without_room_for_a_turn_ends_the_path_by_length(room, fits, steps):
    # The turn has 3 tokens and the reply 6: a next turn needs at least one more.
    interaction = Recorded()
    tree = talk(
        Turns(TURN), interaction, rules=ConversationRules(steps=steps), **sizes(width=1, depth=2, response_length=room)
    )
    tokens, _, leaf = only(tree)
    assert tokens == (TURN + AGAIN + [97] if fits else TURN)
    assert leaf.finish_reason is FinishReason.LENGTH
    assert tree.path(leaf.index).replies == ([Reply(messages=[{"role": "user", "content": "again"}])] if fits else [])
    assert interaction.open == [] and interaction.faults == []


def test_the_assistant_message_of_a_reply_leaves_the_tokens():
    seen = []

    class Calls(Interaction):
        async def step(self, context):
            seen.append(context.messages)
            call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
            return Reply(messages=[{"role": "tool", "content": "7"}], info={"a": 1}, assistant=call)

    tree = talk(Turns(TURN), Calls(), **sizes(width=1))
    assert [message["role"] for message in seen[1]] == ["user", "assistant", "tool", "assistant"]
    assert seen[1][1]["tool_calls"] == [{"name": "f"}]
    assert only(tree)[0] == TURN + 2 * (encode([{"role": "tool", "content": "7"}]) + TURN)
    turn = {"messages": [{"role": "tool", "content": "7"}], "a": 1}
    assert trajectory_fields(tree)[0]["tree_turns"] == [turn] * 2


# --- ends -----------------------------------------------------------------------------------------------------------


def finished(*turns, rules=None, decide=None, **more):
    interaction = Recorded()
    if decide:
        interaction.decide_finished = decide
    tree = talk(Turns(*turns), interaction, rules=rules, **sizes(width=1, **more))
    _, _, leaf = only(tree)
    return leaf.finish_reason, leaf.finish_detail, 1 + len(tree.path(leaf.index).replies)


def test_each_end_has_its_reason():
    assert finished(TURN) == (FinishReason.DEPTH, "", 3)
    assert finished(TURN, rules=ConversationRules(max_turns=2)) == (FinishReason.TURNS, "", 2)
    assert finished(TURN, rules=ConversationRules(max_turns=3)) == (FinishReason.DEPTH, "", 3)
    assert finished(TURN, decide=lambda context: "won") == (FinishReason.INTERACTION, "won", 1)
    assert finished(TURN, decide=lambda context: "") == (FinishReason.INTERACTION, "", 1)
    assert finished(TURN, response_length=3) == (FinishReason.LENGTH, "", 1)
    assert finished([97] * 9, response_length=6, order=REQUIRED) == (FinishReason.LENGTH, "", 1)


def test_the_last_turn_is_checked_too_and_no_step_follows():
    interaction = Recorded()
    talk(Turns(TURN), interaction, **sizes(width=1, depth=2))
    assert list(interaction.contexts) == [("check_finished", "0"), ("step", "0"), ("check_finished", "0+.0")]
    assert interaction.contexts["check_finished", "0+.0"].turns_left == 0


def test_a_turn_cut_off_at_its_most_length_ends_the_path_by_default():
    tree = talk(Turns([97] * 9), Interaction(), rules=ConversationRules(turn_length=5), **sizes(width=1))
    tokens, _, leaf = only(tree)
    assert (tokens, leaf.finish_reason, leaf.finish_detail) == ([97] * 5, FinishReason.LENGTH, "cut_off")


@pytest.mark.parametrize("steps", Steps)
def test_a_step_that_ends_a_path_leaves_the_reason_of_its_turn(steps):
    class Ends(Chancy):
        def decide_step(self, context):
            assert context.cut_off == (context.token_ids == [97] * 5)
            return None

    def reason(*turns, **more):
        rules = ConversationRules(turn_length=5, steps=steps)
        return only(talk(Turns(*turns), Ends(), rules=rules, **sizes(width=1, **more)))[2].finish_reason

    stops = {"order": (FinishReason.STOP, FinishReason.EOS, *REQUIRED), "stop_strings": ("b",)}
    assert reason(TURN) is FinishReason.EOS
    assert reason(TURN, **stops) is FinishReason.STOP
    assert reason([97] * 9) is FinishReason.LENGTH


def test_random_numbers_depend_on_seed_and_node_only():
    def draws(seed, jitter):
        interaction = Recorded(jitter=jitter)
        talk(Turns(TURN, jitter=jitter), interaction, seed=seed, **sizes(width=4))
        return {key: taken.draw for key, taken in interaction.contexts.items()}

    assert draws(1, 0) == draws(1, 5)
    assert draws(1, 0).keys() == draws(2, 0).keys()
    assert all(a != b for a, b in zip(draws(1, 0).values(), draws(2, 0).values(), strict=True))
    checks = [draw for (method, _), draw in draws(1, 0).items() if method == "check_finished"]
    assert len(set(checks)) == len(checks)


def test_a_branchs_own_step_draws_other_numbers_than_the_turn_that_has_its_name():
    interaction = Recorded()
    talk(Turns(TURN), interaction, rules=ConversationRules(steps=Steps.PER_BRANCH), **sizes(width=4))
    draws = [taken.draw for taken in interaction.contexts.values()]
    assert {("step", "0.0"), ("check_finished", "0.0")} <= interaction.contexts.keys()
    assert len(set(draws)) == len(draws)


def test_fields_for_reward_functions_can_be_written_as_json():
    tree = talk(Turns(TURN), Chancy(), **sizes())
    for leaf, fields in zip(tree.leaves, json.loads(json.dumps(trajectory_fields(tree))), strict=True):
        assert len(fields["tree_turns"]) == len(tree.path(leaf).replies) == 2


def test_advantages_see_a_reply_only_where_it_is_the_leaf():
    class One(Recorded):
        def decide_step(self, context):
            return None if context.node == "0.1" else super().decide_step(context)

    def paths(steps):
        tree = talk(Turns(TURN), One(), rules=ConversationRules(steps=steps), **sizes(depth=2))
        return [[(tree.nodes[node].key, begin) for node, begin in tree.path(leaf).spans] for leaf in tree.leaves]

    assert paths(Steps.SHARED) == [[("0", 0), ("0+.0", 9)], [("0", 0), ("0+.1", 9)]]
    assert paths(Steps.PER_BRANCH) == [[("0", 0), ("0.0", 9)], [("0", 0), ("0.1+", 3)]]


@pytest.mark.parametrize("chains", ChainCounting)
@pytest.mark.parametrize("steps", Steps)
def test_siblings_are_compared_also_where_each_has_an_addition_of_its_own(steps, chains):
    tree = talk(Turns(TURN), Recorded(), rules=ConversationRules(steps=steps), **sizes(depth=2))
    forest = build_forest(["p", "p"], [tree.path(leaf).spans for leaf in tree.leaves])
    forest = forest.merge_chains() if chains is ChainCounting.DISTINCT else forest
    settings = AdvantageOptions(chains=chains, aggregation=Aggregation.GROUP_SIZE)
    rewards = np.array([0.0, 1.0])
    # The paths differ in their second turn only, so it gets all credit: half a reward more or less.
    assert treerpo_credit(forest, rewards, divide_by_std=False)[:, 1:].tolist() == [[0.0, -0.5], [0.0, 0.5]]
    # Published, the leaf's group of one counts, with weight 1: (2 * 0.5 + 2 * 0.5 + 1 * 0) / 5.
    credit = 0.5 if chains is ChainCounting.DISTINCT else 0.4
    assert segment_credit(forest, rewards, settings)[:, 1:].tolist() == [[0.0, -credit], [0.0, credit]]
    assert forest.tokens_of_nodes(12).tolist() == [[9, 3], [9, 3]]


def test_time_spent_waiting_for_the_interaction_is_counted():
    class Slow(Interaction):
        async def start(self, sample):
            await asyncio.sleep(0.05)

    assert 0.04 < talk(Turns(TURN), Slow(), **sizes()).counters.interaction_seconds
