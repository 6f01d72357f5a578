# SPDX-License-Identifier: Apache-2.0
"""verl's tools in trees against verl's own tool agent, token for token with the same scripted model."""

import asyncio
import copy
import json
import logging
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop import tool_agent_loop
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY, FunctionTool, function_tool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.workers.rollout.replica import TokenOutput

from helpers.agent_loops import loop_arguments, tree_request
from helpers.example_counts import examples
from recipe.treepo.answers.thinking import NO_THINKING, Thinking
from recipe.treepo.interaction import OnError
from recipe.treepo.search import SearchError, surrogates
from recipe.treepo.settings.schema import InteractionSettings, TreePOSettings
from recipe.treepo.tools import ToolInteraction
from recipe.treepo.verl_adapters.agent_loop import TreeAgentLoop
from recipe.treepo.verl_adapters.tool_exits import ToolExit, contained_tool
from recipe.treepo.verl_adapters.tool_interaction import _ThoughtlessDecoder

START, END, OTHER_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# Like Qwen's: tools in the system message, and consecutive tool results in one user message.
TEMPLATE = r"""{%- if tools %}<|im_start|>system
# Tools{% for tool in tools %}
{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{%- else %}<|im_start|>{{ m.role }}
{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte and the special tokens of Qwen."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=259, special_tokens=[OTHER_END, START, END], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=OTHER_END, additional_special_tokens=[START, END]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


TOKENIZER = make_tokenizer()
START_ID, END_ID, OTHER_END_ID = TOKENIZER.convert_tokens_to_ids([START, END, OTHER_END])
ASSISTANT = TOKENIZER.encode(f"{START}assistant\n", add_special_tokens=False)


def tokens(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


# --- tools -----------------------------------------------------------------------------------------------------


@function_tool("treepo_test_add")
def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return str(a + b)


@function_tool("treepo_test_repeat")
async def repeat(text: str, times: int) -> str:
    """Repeat a text.

    Args:
        text: What.
        times: How often.
    """
    return text * times


@function_tool("treepo_test_fail")
def fail() -> str:
    """Fail."""
    raise KeyError("broken")


class Notes(BaseTool):
    """Tool with a life cycle, a reward, and state of the path."""

    def __init__(self, name: str = "note") -> None:
        function = {"name": name, "description": "Keep.", "parameters": {"type": "object", "properties": {}}}
        schema = OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})
        super().__init__({}, schema)
        self.created: list[Any] = []
        self.released: list[str] = []

    async def create(self, instance_id=None, **kwargs):
        self.created.append(kwargs["create_kwargs"])
        return await super().create(instance_id)

    async def execute(self, instance_id, parameters, *, agent_data, **kwargs):
        notes = agent_data.extra_fields.setdefault("notes", [])
        notes.append(parameters["text"])
        seen = f"{'|'.join(notes)} at {agent_data.assistant_turns} after {agent_data.messages[-1]['role']}"
        return ToolResponse(text=seen), len(notes) / 4, {}

    async def release(self, instance_id, **kwargs):
        self.released.append(instance_id)


def all_tools() -> list[Any]:
    return [*(FUNCTION_TOOL_REGISTRY[name] for name in (ADD, REPEAT, FAIL)), Notes()]


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


ADD, REPEAT, FAIL, NOTE = "treepo_test_add", "treepo_test_repeat", "treepo_test_fail", "note"

# --- the same model in both loops ------------------------------------------------------------------------------


class Client:
    """Scripted model that generates the given turns in order, up to ``max_tokens`` per request.

    Args:
        opening: Text with which the chat template begins each turn.
    """

    def __init__(self, turns: list[str], end: int = END_ID, opening: str = "") -> None:
        self.turns = [[*tokens(turn), end] for turn in turns]
        self.opening = [*ASSISTANT, *tokens(opening)]
        self.requests: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> TokenOutput:
        self.requests.append(request)
        prompt_ids = request["prompt_ids"]
        begins = [at for at in range(len(prompt_ids)) if prompt_ids[at : at + len(self.opening)] == self.opening]
        written = len(prompt_ids) - begins[-1] - len(self.opening)
        limit = request["sampling_params"].get("max_tokens")
        said = self.turns[len(begins) - 1][written:][:limit]
        return TokenOutput(token_ids=said, log_probs=[-0.5] * len(said), stop_reason="completed", num_preempted=0)


def row_of(**fields: Any) -> dict[str, Any]:
    prompt = [{"role": "user", "content": "Work."}]
    return {"raw_prompt": prompt, "uid": "u", "global_steps": 1, **fields}


def verls(turns: list[str], *, row: dict | None = None, tools=None, end=END_ID, response_length=4_000, **multi_turn):
    """Run the scripted model in verl's own tool agent."""

    async def run() -> AgentLoopOutput:
        limits = {"response_length": response_length, **multi_turn}
        arguments = loop_arguments(Client(turns, end), TOKENIZER, tools=tools or all_tools(), **limits)
        return await ToolAgentLoop(**arguments).run({}, **(row or row_of()))

    return asyncio.run(run())


def ours(
    turns: list[str],
    *,
    row=None,
    tools=None,
    end=END_ID,
    response_length=4_000,
    client=None,
    request=None,
    **multi_turn,
) -> list[AgentLoopOutput]:
    """Run the scripted model in the recipe's loop; ``request`` contains changes of the tree request."""
    client = client or Client(turns, end)
    standard = {"width": 1, "independent": True, "settings": TreePOSettings(depth=500), "replaced_agent": "tool_agent"}
    standard |= {"client": client, "eos_token_ids": frozenset({END_ID, OTHER_END_ID})}

    async def run() -> list[AgentLoopOutput]:
        limits = {"response_length": response_length, **multi_turn}
        arguments = loop_arguments(client, TOKENIZER, tools=tools or all_tools(), **limits)
        asked = tree_request(**{**standard, **(request or {})})
        return await TreeAgentLoop(**arguments).run({}, tree_request=asked, **(row or row_of()))

    return asyncio.run(run())


LONG = call(REPEAT, text="abcdefghij", times=9)
NOTES = {"tools_kwargs": {NOTE: {"create_kwargs": {"who": 1}}}}
CONVERSATIONS = {
    "no call": (["Nothing to do."], {}),
    "one call": (["I add." + call(ADD, a=2, b=3), "It is 5."], {}),
    "two turns with calls": ([call(ADD, a=2, b=3), "And" + call(ADD, a=5, b=5), "10."], {}),
    "parallel calls": ([call(ADD, a=1, b=1) + "\n" + call(REPEAT, text="é", times=3), "ok"], {"max_parallel_calls": 2}),
    "more calls than may run": (["".join(call(ADD, a=n, b=n) for n in range(4)), "ok"], {"max_parallel_calls": 3}),
    "unknown tool": ([call("nothing", a=1), "Oh."], {}),
    "invalid JSON": (['<tool_call>{"name": "note", </tool_call>'], {}),
    "invalid JSON beside a call": (["<tool_call>{</tool_call>" + call(ADD, a=1, b=1), "ok"], {"max_parallel_calls": 2}),
    "arguments that are no object": (
        ['<tool_call>{"name": "treepo_test_add", "arguments": "{bad"}</tool_call>', "."],
        {},
    ),
    "wrong arguments": ([call(ADD, x=1), "Oh."], {}),
    "tool that raises": ([call(FAIL), "Oh."], {}),
    "truncated left": ([LONG, "ok"], {"max_tool_response_length": 21, "tool_response_truncate_side": "left"}),
    "truncated middle": ([LONG, "ok"], {"max_tool_response_length": 21, "tool_response_truncate_side": "middle"}),
    "truncated right": ([LONG, "ok"], {"max_tool_response_length": 21, "tool_response_truncate_side": "right"}),
    "empty response": ([call(REPEAT, text="", times=1), "ok"], {}),
    "most assistant turns": ([call(ADD, a=n, b=n) for n in range(9)], {"max_assistant_turns": 2}),
    "most user turns": ([call(ADD, a=n, b=n) for n in range(9)], {"max_user_turns": 2}),
    "both, the user's first": ([call(ADD, a=0, b=0)] * 9, {"max_user_turns": 1, "max_assistant_turns": 3}),
    "both, the assistant's first": ([call(ADD, a=0, b=0)] * 9, {"max_user_turns": 3, "max_assistant_turns": 2}),
    "tool selected": ([call(ADD, a=1, b=1), "ok"], {"row": row_of(extra_info={"tool_selection": [ADD, "gone"]})}),
    "tool not selected": ([call(ADD, a=1, b=1), "ok"], {"row": row_of(extra_info={"tool_selection": [FAIL]})}),
    "nothing selected": ([call(ADD, a=1, b=1), "ok"], {"row": row_of(extra_info={"tool_selection": []})}),
    "tool with a life": ([call(NOTE, text="x"), call(NOTE, text="y"), "ok"], {"row": row_of(**NOTES)}),
    "the other end token": ([call(ADD, a=1, b=1), "ok"], {"end": OTHER_END_ID}),
}


@pytest.mark.parametrize("segment_length", [None, 7])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_tokens_and_mask_are_those_of_verls_own_tool_agent(name, segment_length):
    turns, options = CONVERSATIONS[name]
    expected = verls(turns, **options)
    settings = TreePOSettings(depth=500, segment_length=segment_length)
    [output] = ours(turns, request={"settings": settings}, **options)
    assert TOKENIZER.decode(output.response_ids) == TOKENIZER.decode(expected.response_ids)
    assert output.prompt_ids == expected.prompt_ids
    assert output.response_ids == expected.response_ids
    assert output.response_mask == expected.response_mask
    assert output.response_logprobs == expected.response_logprobs
    assert output.num_turns == expected.num_turns
    assert output.extra_fields["tool_rewards"] == expected.extra_fields["tool_rewards"]


def test_calls_are_compared_by_meaning():
    turns, options = CONVERSATIONS["one call"]
    [output] = ours(turns, **options)
    said = f"I add.{call(ADD, a=2, b=3)}{END}"
    reply = f"\n{START}user\n<tool_response>\n5\n</tool_response>{END}\n{START}assistant\n"
    assert TOKENIZER.decode(output.response_ids) == f"{said}{reply}It is 5.{END}"
    lengths = [len(tokens(text)) for text in (said, reply, f"It is 5.{END}")]
    assert output.response_mask == [1] * lengths[0] + [0] * lengths[1] + [1] * lengths[2]
    assert output.num_turns == 4
    [turn] = output.extra_fields["tree_turns"]
    assert turn == {
        "messages": [{"role": "tool", "content": "5"}],
        "tool_calls": [{"name": ADD, "arguments": '{"a": 2, "b": 3}', "response": "5"}],
    }
    assert output.extra_fields["tree_finish_reason"] == "eos"
    counts = {name: [o.num_turns for o in ours(*CONVERSATIONS[name][:1], **CONVERSATIONS[name][1])] for name in (
        "no call", "most assistant turns", "most user turns", "both, the user's first", "both, the assistant's first",
    )}  # fmt: skip
    assert list(counts.values()) == [[2], [4], [6], [4], [4]]


@pytest.mark.parametrize("spare", [0, 1])
def test_a_result_after_which_no_token_fits_is_left_out_as_verl_leaves_it_out(spare):
    turns, options = CONVERSATIONS["one call"]
    whole = verls(turns, **options)
    # all but the last turn, including the start of its message
    length = len(whole.response_ids) - len(tokens(f"It is 5.{END}")) + spare
    expected = verls(turns, response_length=length, **options)
    [output] = ours(turns, response_length=length, **options)
    assert (output.response_ids, output.response_mask) == (expected.response_ids, expected.response_mask)
    assert len(output.response_ids) == (length if spare else len(tokens(f"I add.{call(ADD, a=2, b=3)}{END}")))
    assert output.extra_fields["tree_finish_reason"] == "length"


def test_unlike_verl_a_tools_reward_is_dropped_with_its_result():
    turns = [call(NOTE, text="x"), "ok"]
    length = len(tokens(turns[0])) + 5
    assert verls(turns, row=row_of(**NOTES), response_length=length).extra_fields["tool_rewards"] == [0.25]
    [output] = ours(turns, row=row_of(**NOTES), response_length=length)
    assert output.extra_fields["tool_rewards"] == [] and output.extra_fields["tree_turns"] == []


# --- trees -----------------------------------------------------------------------------------------------------


def test_branches_have_separate_tool_states_and_release_instances():
    class Varied(Client):
        """Scripted model whose second turn contains the number of its request."""

        async def generate(self, **request):
            output = await super().generate(**request)
            first = output.token_ids == self.turns[1]
            if first:
                self.number = getattr(self, "number", -1) + 1
                output.token_ids = [*tokens(call(NOTE, text=f"y{self.number}")), END_ID]
                output.log_probs = [-0.5] * len(output.token_ids)
            return output

    notes = Notes()
    client = Varied([call(NOTE, text="x"), "second", "ok"])
    settings = TreePOSettings(depth=3)
    settings = replace(settings, branching=replace(settings.branching, init_divergence=(1, 1), divergence=(3, 3)))
    outputs = ours([], row=row_of(**NOTES), tools=[notes], client=client, request={
        "width": 3, "independent": False, "settings": settings,
    })  # fmt: skip
    # the first call is shared, so its tool ran once; each branch finds that note and its own
    assert len(notes.created) == len(notes.released) == 4 and len(set(notes.released)) == 4
    assert notes.created == [{"who": 1}] * 4
    said = sorted(
        [turn["tool_calls"][0]["response"] for turn in output.extra_fields["tree_turns"]] for output in outputs
    )
    first = "x at 1 after assistant"
    assert said == [[first, f"x|y{branch} at 2 after assistant"] for branch in range(3)]
    assert [output.extra_fields["tool_rewards"] for output in outputs] == [[0.25, 0.5]] * 3


def test_a_tools_changes_to_row_arguments_reach_no_other_path():
    class Counts(Notes):
        async def create(self, instance_id=None, **kwargs):
            kwargs["create_kwargs"]["who"] += 1
            return await super().create(instance_id, **kwargs)

    notes = Counts()
    row = row_of(tools_kwargs={NOTE: {"create_kwargs": {"who": 1}}})
    outputs = ours([call(NOTE, text="x"), "ok"], row=row, tools=[notes], request={"width": 3})
    assert len(outputs) == 3
    assert notes.created == [{"who": 2}] * 3
    assert row["tools_kwargs"] == {NOTE: {"create_kwargs": {"who": 1}}}


def test_no_two_turns_of_any_prompt_have_one_request_id():
    seen = []

    class Sees(Notes):
        async def execute(self, instance_id, parameters, *, agent_data, **kwargs):
            seen.append(agent_data.request_id)
            return ToolResponse(text="ok"), 0.0, {}

    for uid in ("u", "v"):
        ours([call(NOTE), call(NOTE), "ok"], row=row_of(uid=uid), tools=[Sees()], request={"width": 2})
    assert len(set(seen)) == len(seen) == 8


def test_a_tool_that_returns_an_image_fails_the_path():
    class Draws(Notes):
        async def execute(self, instance_id, parameters, **kwargs):
            return ToolResponse(text="see", image=[object()]), 0.0, {}

    turns = [call(NOTE), "ok"]
    with pytest.raises(SearchError, match="tool note returned an image or video: trees support text only"):
        ours(turns, row=row_of(), tools=[Draws()])


def test_the_prompt_shows_the_rows_tools_and_the_parsers_stop_tokens_end_turns():
    client = Client(["Nothing."])
    [output] = ours([], client=client, row=row_of(extra_info={"tool_selection": [FAIL]}))
    prompt = TOKENIZER.decode(output.prompt_ids)
    assert FAIL in prompt and ADD not in prompt and prompt.endswith(f"{START}assistant\n")
    assert client.requests[0]["sampling_params"]["stop_token_ids"] == sorted([END_ID, OTHER_END_ID])
    interaction = ToolInteraction()
    interaction.setup(SimpleNamespace(tool_parser=SimpleNamespace(stop_token_ids=[77]), tools={}))
    assert interaction.stop_token_ids() == [77] and interaction.tool_schemas({"extra_info": None}) == []


def test_a_turn_that_was_cut_off_calls_no_tool():
    turns = [call(ADD, a=1, b=1) + "and much more", "ok"]
    settings = TreePOSettings(depth=9, interaction=InteractionSettings(turn_length=len(tokens(call(ADD, a=1, b=1)))))
    [output] = ours(turns, request={"settings": settings})
    assert TOKENIZER.decode(output.response_ids) == call(ADD, a=1, b=1)
    fields = output.extra_fields
    assert (fields["tree_finish_reason"], fields["tree_finish_detail"]) == ("length", "cut_off")


@pytest.mark.parametrize("loop", [verls, ours])
def test_a_tool_sees_the_conversation_with_its_calls_as_verl_records_them(loop):
    class Reads(Notes):
        async def execute(self, instance_id, parameters, *, agent_data, **kwargs):
            seen.append(copy.deepcopy(agent_data.messages))
            return ToolResponse(text="read"), 0.0, {}

    seen: list[list[dict]] = []
    loop([call(NOTE, n=1), "and" + call(NOTE, n=2), "ok"], row=row_of(), tools=[Reads()])
    first, second = (
        {"role": "assistant", "content": f"{text}{END}", "tool_calls": [
            {"type": "function", "function": {"name": NOTE, "arguments": {"n": number}}}
        ]}
        for number, text in ((1, ""), (2, "and"))
    )  # fmt: skip
    begin = [{"role": "user", "content": "Work."}, first]
    assert seen == [begin, [*begin, {"role": "tool", "content": "read"}, second]]


# --- thoughts --------------------------------------------------------------------------------------------------

ONE, TWO = call(ADD, a=1, b=1), call(ADD, a=2, b=3)
OPENING = TEMPLATE.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")


def responses_of(turns: list[str], **options: Any) -> list[list[str]]:
    """Return the results of the tool calls of each turn."""
    [output] = ours(turns, **options)
    return [[said["response"] for said in turn["tool_calls"]] for turn in output.extra_fields["tree_turns"]]


@pytest.mark.parametrize(
    ("turn", "results"),
    [
        (f"<think>I could call {ONE}</think>{TWO}", ["5"]),
        (f"<think>{ONE}</think> <think>{ONE} again</think>{TWO}", ["5"]),
        (f"{TWO}<think>{ONE}</think>", ["5"]),
        (f"{ONE}<think>or {ONE}</think>{TWO}", ["2", "5"]),
        (f"{ONE} in a thought that the prompt opened</think>{TWO}", ["5"]),
        (f"<think>{ONE}</think>{ONE}</think>{TWO}", ["5"]),
        (f"<think>a <think>b {ONE}</think>{TWO}", ["5"]),
        ("<think></think>" * 3_000 + TWO, ["5"]),
        (f"<think>cut <tool_call>{{</think>{TWO}", ["5"]),
        (f"<think>{ONE}", None),
        (f"<think>a</think> text <think>{ONE}", None),
        (f"<think>{ONE}</think>done", None),
        (f"{ONE}</think>done", None),
    ],
)
def test_calls_inside_a_thought_are_not_run_and_those_outside_are(turn, results):
    expected = [] if results is None else [results]
    assert responses_of([turn, "ok"], max_parallel_calls=9, response_length=200_000) == expected


@pytest.mark.parametrize(("turn", "results"), [(ONE, None), (f"so</think>{TWO}", ["5"]), (f"a{ONE}</think>", None)])
def test_a_template_that_opens_a_thought_is_taken_into_account(turn, results, monkeypatch):
    monkeypatch.setattr(TOKENIZER, "chat_template", OPENING)
    client = Client([turn, "ok"], opening="<think>\n")
    assert responses_of([], client=client) == ([] if results is None else [results])


TAG = Thinking().open
# Each item is a call with its own result, a text, or an opening tag, which is text inside a thought.
ITEMS = st.one_of(st.integers(0, 9), st.sampled_from(["so ", "\\boxed{5}", "<thi", "nk>", "</", "<tool_call>"]))
THOUGHTS = st.lists(st.one_of(ITEMS, st.just(TAG)), max_size=4)


@given(
    parts=st.lists(st.tuples(THOUGHTS, st.lists(st.integers(0, 9), max_size=2)), max_size=3),
    unfinished=st.one_of(st.none(), THOUGHTS),
    opened=st.booleans(),
    segment_length=st.one_of(st.none(), st.integers(5, 40)),
    tags=st.sampled_from([Thinking(), Thinking("[T]", "[/T]")]),
)
@examples(short=40, long=400, deadline=None)
def test_calls_outside_of_thoughts_run_and_those_inside_never(parts, unfinished, opened, segment_length, tags):
    def written(items: list[Any]) -> str:
        texts = [call(ADD, a=item, b=0) if isinstance(item, int) else item for item in items]
        return "".join(text.replace(TAG, tags.open) for text in texts)

    turn = "".join(f"{tags.open}{written(inside)}{tags.close}{written(behind)}" for inside, behind in parts)
    turn += "" if unfinished is None else f"{tags.open}{written(unfinished)}"
    opening = f"{tags.open}\n" if opened and turn else ""
    expected = [str(number) for _, behind in parts for number in behind]
    settings = TreePOSettings(depth=5_000, segment_length=segment_length, thinking=tags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TOKENIZER, "chat_template", OPENING.replace("<think>\n", opening))
        client = Client([turn.removeprefix(tags.open) if opening else turn, "ok"], opening=opening)
        found = responses_of([], client=client, request={"settings": settings}, max_parallel_calls=9)
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("template", "turn", "ends_after", "reason"),
    [
        (OPENING, "\\boxed{5}, no </think>so \\boxed{6}.", "\\boxed{5}, no </think>so \\boxed{6}", "answer"),
        (OPENING, "\\boxed{5} or", "\\boxed{5} or", "eos"),
        (TEMPLATE, "<think>\\boxed{5}</think>so \\boxed{6}.", "<think>\\boxed{5}</think>so \\boxed{6}", "answer"),
        (TEMPLATE, "\\boxed{5}, no", "\\boxed{5}", "answer"),
    ],
)
def test_a_box_in_a_thought_that_the_template_opened_ends_no_path(template, turn, ends_after, reason, monkeypatch):
    monkeypatch.setattr(TOKENIZER, "chat_template", template)
    client = Client([turn], opening="<think>\n" if template == OPENING else "")
    settings = TreePOSettings(depth=500, segment_length=1)
    [output] = ours([], client=client, request={"settings": settings, "replaced_agent": "single_turn_agent"})
    assert output.extra_fields["tree_finish_reason"] == reason
    assert TOKENIZER.decode(output.response_ids, skip_special_tokens=True) == ends_after


def test_without_tags_a_call_inside_a_thought_is_run():
    settings = {"settings": TreePOSettings(depth=500, thinking=NO_THINKING)}
    assert responses_of([f"<think>{ONE}</think>", "ok"], request=settings) == [["2"]]


def test_the_record_of_a_turn_keeps_its_thoughts():
    seen = []

    class Reads(Notes):
        async def execute(self, instance_id, parameters, *, agent_data, **kwargs):
            seen.append(agent_data.messages[-1]["content"])
            return ToolResponse(text="read"), 0.0, {}

    ours([f"a <think>b {ONE} c</think>{call(NOTE)} d", "ok"], row=row_of(), tools=[Reads()])
    assert seen == [f"a <think>b {ONE} c</think> d{END}"]


def test_a_thought_inside_an_argument_is_passed_to_the_tool():
    text = 'say "<think>a "b" \\ é</think>"'
    assert responses_of([call(REPEAT, text=text, times=2), "ok"]) == [[text * 2]]
    parser = ToolParser.get_tool_parser("seed", TOKENIZER)
    turn = f"<seed:tool_call><function={REPEAT}><parameter=text>{text}</parameter></function></seed:tool_call>"
    decoder = _ThoughtlessDecoder(TOKENIZER, Thinking())
    parser.tokenizer = decoder
    _, calls = asyncio.run(parser.extract_tool_calls(tokens(turn)))
    assert [json.loads(decoder.restore_call(call).arguments) for call in calls] == [{"text": text}]


def test_an_unclosed_think_inside_an_argument_is_text_and_hides_no_call():
    texts = ["a <think> tag", "<think>"]
    for text in texts:
        turn = call(REPEAT, text=text, times=2) + call(REPEAT, text="b", times=1)
        assert responses_of([turn, "ok"], max_parallel_calls=9) == [[text * 2, "b"]]
    quoted = call(REPEAT, text=texts[0], times=2)
    assert responses_of([f"<think>x</think>{quoted}", "ok"]) == [[texts[0] * 2]]
    assert responses_of([f"<think>I could call {quoted}", "ok"]) in ([], [[]])  # in a thought, whatever its arguments


@pytest.mark.parametrize("name", sorted(set(ToolParser._registry) - {"gemma4", "gpt-oss"}))
def test_the_parsers_of_verl_find_their_calls_behind_a_thought_only(name):
    calls = {
        "hermes": '<tool_call>{"name": "f", "arguments": {"n": 1}}</tool_call>',
        "qwen3_coder": "<tool_call><function=f><parameter=n>1</parameter></function></tool_call>",
        "glm": "<tool_call>f<arg_key>n</arg_key><arg_value>1</arg_value></tool_call>",
        "seed": "<seed:tool_call><function=f><parameter=n>1</parameter></function></seed:tool_call>",
        "minimax": '<minimax:tool_call><invoke name="f"><parameter name="n">1</parameter></invoke></minimax:tool_call>',
        "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>f<|tool_call_argument_begin|>"
        '{"n": 1}<|tool_call_end|><|tool_calls_section_end|>',
        "deepseek_v4": '<｜DSML｜tool_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="n" string="false">1'
        "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>",
    }
    own = calls[name]
    thought = f"<think>first {own.replace('f', 'g')} then</think>"

    def found(turn: str) -> tuple[str, list[str]]:
        interaction = ToolInteraction()
        parser = ToolParser.get_tool_parser(name, TOKENIZER)
        interaction.setup(SimpleNamespace(tool_parser=parser, tokenizer=TOKENIZER))
        content, calls = asyncio.run(interaction._parse(tokens(turn), {}, Thinking()))
        return content, [call.name for call in calls]

    assert found(f"{thought}so {own}")[1] == ["f"]
    assert found(f"<think>first {own}") == (f"<think>first {own}", []) or name == "deepseek_v4"
    # verl's parsers of GLM and DeepSeek remove thoughts from the record
    kept = "" if name in ("glm", "deepseek_v4") else thought
    assert found(f"{thought}so {own}")[0] == f"{kept}so "


# --- exits and strange texts -----------------------------------------------------------------------------------


class Mine(BaseException):
    """Exception of a user that is not an Exception."""


RAISED = [SystemExit(3), KeyboardInterrupt("mine"), asyncio.CancelledError("own"), GeneratorExit("g"), Mine("m")]


FUNCTIONS = ("plain", "coroutine", "task")


def exits(place: str, error: BaseException) -> Any:
    """Return a tool that raises in a plain function, a coroutine, or a method of verl's tools."""

    def plain() -> str:
        """Exit."""
        raise error

    async def coroutine() -> str:
        """Exit."""
        raise error

    class Exits(Notes):
        """Tool that raises in one method, with 1 call released for each that was created."""

    async def raising(self, *arguments, **named):
        raise error

    async def task() -> str:
        """Exit in a task."""
        async with asyncio.TaskGroup() as group:
            group.create_task(coroutine())

    if place in FUNCTIONS:
        function = {"plain": plain, "coroutine": coroutine, "task": task}[place]
        schema = Notes().tool_schema
        return FunctionTool(name=NOTE, fn=function, tool_schema=schema, is_async=place != "plain")
    setattr(Exits, place, raising)
    return Exits()


@pytest.mark.parametrize(
    ("place", "error"),
    [(place, error) for place in ("plain", "coroutine", "create", "execute", "release") for error in RAISED]
    + [("task", error) for error in RAISED[:2]],
)
def test_an_exit_of_a_tool_fails_its_path_and_names_the_tool(place, error):
    arguments = {} if place in FUNCTIONS else {"text": "x"}
    settings = TreePOSettings(depth=9, interaction=InteractionSettings(on_error=OnError.END))
    request = {"settings": settings, "width": 2}
    turns = [call(NOTE, **arguments) + call(ADD, a=1, b=1), "ok"]
    outputs = ours(turns, row=row_of(), tools=[exits(place, error), FUNCTION_TOOL_REGISTRY[ADD]], request=request)
    assert len(outputs) == 2
    for output in outputs:
        fields = output.extra_fields
        assert fields["tree_finish_reason"] == "error"
        assert f"tool note: {type(error).__name__}: {error}" in fields["tree_finish_detail"]


@pytest.mark.parametrize(
    ("place", "error"),
    [(place, error) for place in ("plain", "coroutine", "create", "execute", "release") for error in RAISED]
    + [("task", error) for error in RAISED[:2]],
)
def test_in_verls_own_tool_agent_an_exit_fails_the_trajectory_and_the_event_loop_goes_on(place, error):
    arguments = {} if place in FUNCTIONS else {"text": "x"}

    async def run() -> BaseException:
        loop = ToolAgentLoop(
            **loop_arguments(
                Client([call(NOTE, **arguments), "ok"]), TOKENIZER, tools=[contained_tool(exits(place, error))],
                response_length=4_000,
            )
        )  # fmt: skip
        [result] = await asyncio.gather(asyncio.create_task(loop.run({}, **row_of())), return_exceptions=True)
        return result

    result = asyncio.run(run())
    assert isinstance(result, ToolExit) and result.error is error


def test_an_exception_of_a_tool_whose_text_exits_is_shown_by_its_type():
    class Exit(Exception):
        def __str__(self):
            raise SystemExit(3)

    for place in ("plain", "coroutine", "execute"):
        arguments = {} if place in FUNCTIONS else {"text": "x"}
        outputs = ours(
            [call(NOTE, **arguments), "ok"], row=row_of(), tools=[exits(place, Exit())], request={"width": 2}
        )
        said = [turn["messages"][0]["content"] for output in outputs for turn in output.extra_fields["tree_turns"]]
        assert said == ["Error executing tool 'note': Exit"] * 2


def test_an_exit_of_a_tool_costs_the_other_paths_nothing():
    calls = iter(range(100))

    def sometimes() -> str:
        """Exit at the first call."""
        if next(calls) == 0:
            raise SystemExit(3)
        return "fine"

    tool = FunctionTool(name=NOTE, fn=sometimes, tool_schema=Notes().tool_schema)
    outputs = ours([call(NOTE), "ok"], row=row_of(), tools=[tool], request={"width": 3})
    said = [turn["messages"][0]["content"] for output in outputs for turn in output.extra_fields["tree_turns"]]
    assert said == ["fine"] * 3
    assert outputs[0].extra_fields["tree_statistics"]["failed_steps"] == 1


@pytest.mark.parametrize("waits", ["plain", "coroutine"])
def test_a_cancelled_run_is_not_taken_for_a_failure_of_a_tool(waits):
    release, entered = threading.Event(), threading.Event()

    def plain() -> str:
        """Wait."""
        entered.set()
        release.wait(20)
        return "late"

    async def coroutine() -> str:
        """Wait."""
        entered.set()
        await asyncio.sleep(20)
        return "late"

    function = {"plain": plain, "coroutine": coroutine}[waits]
    tool = FunctionTool(name=NOTE, fn=function, tool_schema=Notes().tool_schema, is_async=waits == "coroutine")

    async def run() -> None:
        arguments = loop_arguments(None, TOKENIZER, tools=[tool], response_length=4_000)
        request = tree_request(
            width=1, settings=TreePOSettings(depth=9), replaced_agent="tool_agent", client=Client([call(NOTE), "ok"]),
            eos_token_ids=frozenset({END_ID}),
        )  # fmt: skip
        task = asyncio.create_task(TreeAgentLoop(**arguments).run({}, tree_request=request, **row_of()))
        while not entered.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        try:
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            release.set()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda: next(iter([])), "RuntimeError: StopIteration"),
        (lambda: (n for n in range(3)), "returned a generator; a tool must return its text"),
        (lambda: asyncio.Future(loop=asyncio.new_event_loop()), "returned a Future; a tool must return its text"),
    ],
)
def test_a_result_that_is_no_text_is_reported_to_the_model_as_verl_reports_errors(function, says):
    tool = FunctionTool(name=NOTE, fn=function, tool_schema=Notes().tool_schema)
    expected = f"Error executing tool '{NOTE}': {says.removeprefix('RuntimeError: ')}"
    assert responses_of([call(NOTE), "ok"], row=row_of(), tools=[tool]) == [[expected]]


@pytest.mark.parametrize(
    "result", ["bad \ud800 text", {"key \udfff": "bad \ud800"}, ("bad \ud800", 0.5), ToolResponse(text="\udc80")]
)
def test_lone_surrogates_of_a_tool_become_replacement_characters(result, caplog, monkeypatch):
    monkeypatch.setattr(surrogates, "_WARNED", set())
    tool = FunctionTool(name=NOTE, fn=lambda: result, tool_schema=Notes().tool_schema)
    expected = {str: "bad \ufffd text", dict: '{"key \ufffd": "bad \ufffd"}', tuple: "bad \ufffd"}
    turns = [call(NOTE), call(NOTE), "ok"]
    assert responses_of(turns, row=row_of(), tools=[tool]) == [[expected.get(type(result), "\ufffd")]] * 2
    warnings = [record.getMessage() for record in caplog.records if "surrogates" in record.getMessage()]
    assert len(warnings) == 1 and warnings[0].startswith("tool note returned a text with surrogates")


def test_verls_own_tool_agent_gets_texts_without_lone_surrogates():
    tool = contained_tool(FunctionTool(name=NOTE, fn=lambda: "bad \ud800", tool_schema=Notes().tool_schema))
    assert "bad \ufffd" in TOKENIZER.decode(verls([call(NOTE), "ok"], tools=[tool]).response_ids)


def test_a_lone_surrogate_that_the_model_escapes_reaches_no_tokenizer(caplog):
    caplog.set_level(logging.ERROR, logger=tool_agent_loop.logger.name)  # its warning quotes the name
    turn = r'<tool_call>{"name": "gone \ud800", "arguments": {"a": "\ud800"}}</tool_call>'
    [output] = ours([turn, "ok"], row=row_of())
    [said] = output.extra_fields["tree_turns"][0]["tool_calls"]
    assert said["name"] == "gone \ufffd" and said["arguments"] == '{"a": "\ufffd"}'
    json.dumps(output.extra_fields, ensure_ascii=False).encode()
