# SPDX-License-Identifier: Apache-2.0
"""Agent loop: arguments of the search, trajectories in verl's form, conversations."""

import asyncio
from typing import Any, ClassVar

import numpy as np
import pytest
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from helpers.agent_loops import (
    EndingClient,
    OneTokenClient,
    ScriptedBuilder,
    ScriptedTokenizer,
    loop_arguments,
    tree_request,
)
from recipe.treepo.answers.thinking import Thinking
from recipe.treepo.interaction import Interaction, InteractionError, Reply
from recipe.treepo.search import SearchError
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import DumpSettings, InteractionSettings, TreePOSettings
from recipe.treepo.verl_adapters import agent_loop
from recipe.treepo.verl_adapters.agent_loop import TreeAgentLoop, TreeRequest, trajectory_output
from recipe.treepo.verl_adapters.trajectory import trajectory_fields
from recipe.treepo.verl_adapters.tree_dump import SampledTree

ROW = {"raw_prompt": [{"role": "user", "content": "?"}], "global_steps": 6, "uid": "u"}


def run_loop(
    request: TreeRequest, *, temperature: float = 1.0, **options: Any
) -> tuple[TreeAgentLoop, list[AgentLoopOutput]]:
    """Run a loop with prompt [1, 2] and addition [30, 31] after each turn; ``options`` are keys of the rollout."""

    async def run() -> tuple[TreeAgentLoop, list[AgentLoopOutput]]:
        loop = TreeAgentLoop(**loop_arguments(request.client, ScriptedTokenizer(), model_type=None, **options))
        loop.continuous_token_builder = ScriptedBuilder()
        sampling = {"temperature": temperature}
        return loop, await loop.run(sampling, tree_request=request, priority=np.int64(9), **ROW)

    return asyncio.run(run())


def test_a_trajectory_carries_tokens_logprobs_versions_and_its_path():
    tree = Tree([1, 2])
    tree.add(ROOT, Segment([3, 4], [-0.5, -0.25], min_version=6, max_version=6), key="0")
    tree.add(1, Segment([5], [-1.0], min_version=6, max_version=7), key="0.0")
    tree.finish(2, FinishReason.EOS)
    output = trajectory_output(tree, 2, trajectory_fields(tree)[0])
    assert (output.prompt_ids, output.response_ids, output.response_mask) == ([1, 2], [3, 4, 5], [1, 1, 1])
    assert output.response_logprobs == [-0.5, -0.25, -1.0]
    fields = output.extra_fields
    assert (fields["min_global_steps"], fields["max_global_steps"]) == (6, 7)
    assert fields["tree_path"] == [(1, 0), (2, 2)]
    assert fields["tree_finish_reason"] == "eos"


def test_agents_that_trees_cannot_replace_are_refused():
    message = "agent_name=other_agent: trees replace only single_turn_agent and tool_agent"
    with pytest.raises(ValueError, match=message):
        run_loop(tree_request(replaced_agent="other_agent"))


def test_a_prompt_that_is_too_long_fails_or_is_cut_and_marked(searches):
    loop = TreeAgentLoop(**loop_arguments(OneTokenClient(), ScriptedTokenizer(), model_type=None))
    loop.rollout_config.prompt_length = 3
    assert loop._cap_text_prompt_length([1, 2, 3]) == [1, 2, 3] and not loop.prompt_is_cut
    with pytest.raises(ValueError, match="data.max_prompt_length=3: a prompt has 4 tokens, and data.truncation=error."):
        loop._cap_text_prompt_length([1, 2, 3, 4])
    loop.data_config.truncation = "left"
    assert loop._cap_text_prompt_length([1, 2, 3, 4]) == [2, 3, 4] and loop.prompt_is_cut
    _, (output,) = run_loop(tree_request())
    assert output.extra_fields["tree_prompt_cut"] is False
    _, (output,) = run_loop(tree_request(), prompt_length=1, truncation="left")
    assert (output.prompt_ids, output.extra_fields["tree_prompt_cut"]) == ([2], True)
    with pytest.raises(ValueError, match="a prompt has 2 tokens"):
        run_loop(tree_request(), prompt_length=1)


# --- one turn --------------------------------------------------------------------------------------------------


@pytest.fixture
def searches(monkeypatch) -> list[tuple[list[int], dict]]:
    """Recorded arguments of a stub search: one request, and a tree of one leaf and one dropped path."""
    asked = []

    async def search(prompt_ids, **arguments):
        asked.append((prompt_ids, arguments))
        tree = Tree(prompt_ids)
        for number in range(2):
            tree.add(ROOT, Segment([3], [-0.5]), key=str(number))
            tree.finish(1 + number, FinishReason.EOS, dropped=number == 1)
        await arguments["engine"].extend([1, 2], max_tokens=4, branch="0")
        return tree

    monkeypatch.setattr(agent_loop, "grow_tree", search)
    return asked


def test_the_search_gets_shape_rules_and_seed_of_the_request(searches):
    settings = TreePOSettings(temperature=(1.0, 3.0), depth=5)
    request = tree_request(width=2, settings=settings, progress=0.5, seed=99, eos_token_ids=frozenset({5}))
    _, outputs = run_loop(request)
    prompt_ids, asked = searches[0]
    assert prompt_ids == [1, 2] and asked["seed"] == 99
    assert asked["shape"] == settings.shape(width=2, response_length=70, progress=0.5)
    assert asked["shape"].branching.temperature == pytest.approx(2.0)
    rules = asked["stopping"]
    assert (rules.eos_token_ids, rules.response_length, rules.depth) == ({5}, 70, 5)
    assert rules.decode([4]) == "[4]"
    assert [output.response_ids for output in outputs] == [[3]]


@pytest.mark.parametrize(
    ("engine_name", "full_determinism", "stop", "seeded"),
    [("vllm", False, ["Q:"], False), ("vllm", True, ["Q:"], True), ("sglang", False, None, False)],
)
def test_the_engine_gets_client_end_tokens_stop_strings_and_seed(engine_name, full_determinism, stop, seeded, searches):
    client = OneTokenClient()
    settings = TreePOSettings(stop_strings=("Q:",))
    request = tree_request(settings=settings, seed=99, eos_token_ids=frozenset({7, 5}), client=client)
    run_loop(request, name=engine_name, full_determinism=full_determinism, temperature=0.5)
    (sent,) = client.requests
    params = sent["sampling_params"]
    assert (params["temperature"], params["stop_token_ids"], params.get("stop")) == (0.5, [5, 7], stop)
    assert params.get("detokenize") == (True if engine_name == "vllm" else None)
    assert params.get("seed") == (derive_seed(99, "0") % 2**31 if seeded else None)
    assert sent["priority"] == 9 and type(sent["priority"]) is int


def test_the_tree_is_kept_for_the_dump_with_calls_on_request(searches):
    without, with_calls, none = SampledTree(), SampledTree(), tree_request()
    run_loop(none)
    run_loop(tree_request(sampled=without))
    run_loop(tree_request(sampled=with_calls, settings=TreePOSettings(dump=DumpSettings(calls=True))))
    assert without.tree.leaves == with_calls.tree.leaves == [1]
    assert without.calls == []
    assert with_calls.calls == [{"branch": "0", "input_ids": [1, 2], "output_ids": [3]}]


def test_an_error_of_the_search_fails_the_prompt(monkeypatch):
    async def fail(prompt_ids, **arguments):
        raise SearchError("the prompt got no trajectory")

    monkeypatch.setattr(agent_loop, "grow_tree", fail)
    with pytest.raises(SearchError, match="^the prompt got no trajectory$"):
        run_loop(tree_request())


# --- conversations ---------------------------------------------------------------------------------------------


class Talk(Interaction):
    """Interaction with a fixed reply that counts the calls of ``tool_schemas``."""

    made: ClassVar[list["Talk"]] = []

    def __init__(self, said: str = "more") -> None:
        self.said, self.agent, self.asked_for_tools = said, None, 0
        self.made.append(self)

    def setup(self, agent):
        self.agent = agent

    def tool_schemas(self, sample):
        self.asked_for_tools += 1
        return [{"name": sample["uid"]}]

    def stop_token_ids(self):
        return [88]

    async def step(self, context):
        return [{"role": "user", "content": self.said}]


def talk_request(**changes: Any) -> TreeRequest:
    standard = {"interaction": Talk, "settings": TreePOSettings(depth=3), "eos_token_ids": frozenset({5})}
    return tree_request(**{"width": 1, "independent": True, **standard, "client": EndingClient(), **changes})


@pytest.fixture
def talks(monkeypatch) -> list[Talk]:
    """All instances made in a test."""
    monkeypatch.setattr(Talk, "made", [])
    return Talk.made


def test_a_prompt_has_one_interaction_with_its_options_and_the_loop(talks):
    settings = TreePOSettings(depth=3, interaction=InteractionSettings(options={"said": "hm"}))
    loop, outputs = run_loop(talk_request(settings=settings, width=3))
    assert len(outputs) == 3
    [talk] = talks
    assert (talk.said, talk.agent, talk.asked_for_tools) == ("hm", loop, 1)
    # the prompt and every addition are tokenized with the same tools
    assert loop.continuous_token_builder.shown == [[{"name": "u"}]]
    assert loop.continuous_token_builder.merged == [([{"role": "user", "content": "hm"}], [{"name": "u"}])] * 6


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("mine"), asyncio.CancelledError("own")])
@pytest.mark.parametrize("method", ["__init__", "setup", "tool_schemas", "stop_token_ids"])
def test_an_exit_before_the_search_fails_the_prompt_only(method, error, monkeypatch):
    def exits(*_, **options):
        raise error

    monkeypatch.setattr(Talk, method, exits)
    with pytest.raises(InteractionError, match=f"^the interaction of prompt u failed: {type(error).__name__}: "):
        run_loop(talk_request())


def test_an_interaction_of_the_user_replaces_verls_tools(talks):
    run_loop(talk_request(replaced_agent="tool_agent"))
    assert len(talks) == 1


def test_stop_tokens_of_the_interaction_end_turns_too(talks, searches):
    request = talk_request()
    run_loop(request)
    [(_, asked)] = searches
    assert asked["stopping"].eos_token_ids == {5, 88}
    assert request.client.requests[0]["sampling_params"]["stop_token_ids"] == [5, 88]


def test_replies_are_masked_in_the_trajectory(talks):
    _, [output] = run_loop(talk_request())
    # three turns [3, 5], the maximum of depth, with two additions between them
    assert output.response_ids == [3, 5, 30, 31, 3, 5, 30, 31, 3, 5]
    assert output.response_mask == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert output.response_logprobs == [-0.5, -0.25, 0.0, 0.0, -0.5, -0.25, 0.0, 0.0, -0.5, -0.25]
    # the prompt, three turns of the model and two of the user
    assert output.num_turns == 6
    fields = output.extra_fields
    assert fields["tree_turns"] == [{"messages": [{"role": "user", "content": "more"}]}] * 2
    assert (fields["tool_rewards"], fields["turn_scores"]) == ([], [])
    assert (fields["tree_finish_reason"], fields["tree_finish_detail"]) == ("depth", "")
    assert (fields["min_global_steps"], fields["max_global_steps"]) == (1, 3)


def test_verls_limits_of_turns_hold_for_any_interaction(talks):
    counts = []
    for limits in ({}, {"max_assistant_turns": 2}, {"max_user_turns": 2}, {"max_user_turns": 1}):
        settings = TreePOSettings(depth=9)
        _, [output] = run_loop(talk_request(settings=settings), **limits)
        counts.append((output.num_turns, output.extra_fields["tree_finish_reason"]))
    assert counts == [(18, "depth"), (4, "turns"), (6, "turns"), (4, "turns")]


def test_the_context_of_a_turn_has_limits_and_the_row(talks, monkeypatch):
    seen = []

    async def check(self, context):
        seen.append(context)
        return "won"

    monkeypatch.setattr(Talk, "check_finished", check)
    settings = TreePOSettings(depth=4, interaction=InteractionSettings(turn_length=9))
    _, [output] = run_loop(talk_request(settings=settings, validate=True), max_assistant_turns=3)
    [context] = seen
    assert context.messages == [{"role": "user", "content": "?"}, {"role": "assistant", "content": "[3, 5]"}]
    assert (context.turn, context.turns_left, context.tokens_left, context.cut_off) == (1, 2, 68, False)
    assert (context.validate, context.sample["uid"], context.node) == (True, "u", "0")
    fields = output.extra_fields
    assert (fields["tree_finish_reason"], fields["tree_finish_detail"]) == ("interaction", "won")
    assert (output.num_turns, fields["tree_turns"]) == (2, [])


@pytest.mark.parametrize(
    ("thinking", "known", "begins", "visible"),
    [
        (None, None, False, "[3, 5]"),
        (Thinking("[1, 2]", "3,"), {"open": "[1, 2]", "close": "3,", "opened": True}, True, " 5]"),
        (Thinking("[1, 2]", "4"), {"open": "[1, 2]", "close": "4", "opened": True}, True, None),
        (Thinking("[2]", "4"), {"open": "[2]", "close": "4", "opened": False}, False, "[3, 5]"),
    ],
)
def test_an_interaction_and_its_rewards_read_the_text_behind_a_thought(
    thinking, known, begins, visible, talks, monkeypatch
):
    """The prompt and the turn have the texts [1, 2] and [3, 5]."""
    seen = []

    async def check(self, context):
        seen.append(context)
        return "won"

    monkeypatch.setattr(Talk, "check_finished", check)
    run_loop(talk_request(settings=TreePOSettings(depth=4, thinking=thinking)))
    [context] = seen
    assert (context.text, context.visible, context.begins_in_thought) == ("[3, 5]", visible, begins)
    assert context.sample.get("extra_info") == (None if known is None else {"treepo_thinking": known})
    assert "extra_info" not in ROW


def test_the_search_gets_the_tags_of_thoughts(searches):
    tags = Thinking("<t>", "</t>")
    for thinking in (None, tags):
        run_loop(tree_request(settings=TreePOSettings(thinking=thinking)))
    assert [asked["stopping"].thinking for _, asked in searches] == [Thinking(), tags]


def test_tool_rewards_and_reply_infos_follow_the_path(talks, monkeypatch):
    async def step(self, context):
        messages = [{"role": "tool", "content": str(context.turn)}]
        return Reply(messages=messages, info={"turn": context.turn}, tool_rewards=[context.turn / 2, 0.0])

    monkeypatch.setattr(Talk, "step", step)
    _, [output] = run_loop(talk_request())
    assert output.extra_fields["tool_rewards"] == [0.5, 0.0, 1.0, 0.0]
    assert output.extra_fields["tree_turns"] == [
        {"messages": [{"role": "tool", "content": "1"}], "turn": 1},
        {"messages": [{"role": "tool", "content": "2"}], "turn": 2},
    ]


@pytest.mark.parametrize(("independent", "routes"), [(True, 3), (False, 1)])
def test_independent_loops_have_routes_and_nodes_of_their_own(independent, routes, talks):
    request = talk_request(width=3, independent=independent)
    _, outputs = run_loop(request)
    assert len({sent["request_id"] for sent in request.client.requests}) == routes
    paths = [tuple(node for node, _ in output.extra_fields["tree_path"]) for output in outputs]
    shared = set(paths[0]) & set(paths[1]) & set(paths[2])
    if independent:
        assert shared == set() and len(request.client.requests) == 9
        assert [len(path) for path in paths] == [3, 3, 3]


def test_the_shape_of_a_conversation_is_that_of_turns(talks, searches):
    settings = TreePOSettings(depth=5, interaction=InteractionSettings(turn_length=11))
    for independent in (False, True):
        run_loop(talk_request(settings=settings, independent=independent, width=2))
    [(_, tree), (_, loops)] = searches
    assert tree["shape"] == settings.shape(width=2, response_length=70, progress=0.0, conversation=True)
    assert loops["shape"] == settings.independent(2).shape(width=2, response_length=70, progress=0.0, conversation=True)
    assert tree["shape"].segment_length == loops["shape"].segment_length == 11
    assert tree["conversation"].rules.turn_length == 11 and tree["conversation"].end_token_id == 5
