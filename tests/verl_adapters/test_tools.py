# SPDX-License-Identifier: Apache-2.0
"""verl's tools in trees against verl's own tool agent, token for token with the same scripted model."""

import asyncio
import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY, function_tool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.workers.rollout.replica import TokenOutput

from helpers.agent_loops import loop_arguments, tree_request
from recipe.treepo.search import SearchError
from recipe.treepo.settings.schema import InteractionSettings, TreePOSettings
from recipe.treepo.tools import ToolInteraction
from recipe.treepo.verl_adapters.agent_loop import TreeAgentLoop

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
    """Scripted model that generates the given turns in order, up to ``max_tokens`` per request."""

    def __init__(self, turns: list[str], end: int = END_ID) -> None:
        self.turns = [[*tokens(turn), end] for turn in turns]
        self.requests: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> TokenOutput:
        self.requests.append(request)
        prompt_ids = request["prompt_ids"]
        begins = [at for at in range(len(prompt_ids)) if prompt_ids[at : at + len(ASSISTANT)] == ASSISTANT]
        written = len(prompt_ids) - begins[-1] - len(ASSISTANT)
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
