# SPDX-License-Identifier: Apache-2.0
"""The embedded model ``tiny/chat_model``: its tokens equal those of verl."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.load_file import ROOT
from tiny import chat_recipe, make_model, measure, supervision
from tiny import conversations as tiny_conversations
from tiny.conversations import CALCULATOR, Sloppiness, conversations
from tiny.problems import generate_problems

pytest.importorskip("torch")
pytest.importorskip("transformers")

MODEL = ROOT / "tiny/chat_model"
SLOPPY = Sloppiness(first=0.3, again=0.2, tool=0.3)
CALL = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "4 * 6"}}}
CALL_TEXT = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "4 * 6"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Load the tokenizer as verl does."""
    from verl.utils import hf_tokenizer

    return hf_tokenizer(str(MODEL))


@pytest.fixture(scope="module")
def builder(tokenizer: Any) -> Any:
    """Make verl's builder for Qwen2."""
    from verl.utils.tokenizer.continuous_token import QwenContinuousTokenBuilder

    return QwenContinuousTokenBuilder(tokenizer)


def made(seed: int, tool_share: float = 0.5) -> list[tiny_conversations.Conversation]:
    """Make sloppy conversations."""
    return conversations(generate_problems(60, seed), seed, SLOPPY, tool_share=tool_share)


def turn_text(message: dict[str, Any]) -> str:
    """Return the model's text of a turn, spelled out without the template."""
    parts = [message["content"]] if message["content"] else []
    for call in message.get("tool_calls", []):
        expression = call["function"]["arguments"]["expression"]
        parts.append(CALL_TEXT.replace("4 * 6", expression))
    return "\n".join(parts)


def test_verls_builder_gives_the_supervised_tokens_and_mask(tokenizer: Any, builder: Any) -> None:
    for conversation in made(1):
        messages, tools = conversation.messages, conversation.tools
        fed = builder.build_initial_tokens(messages[:1], tools=tools)
        mask = [0] * len(fed)
        for at in range(1, len(messages)):
            if messages[at]["role"] == "assistant":
                written = tokenizer(turn_text(messages[at]) + "<|im_end|>", add_special_tokens=False)["input_ids"]
                merged = builder.merge_assistant_tokens(fed, written)
            else:
                merged = builder.merge_context_tokens(messages[:at], messages[: at + 1], fed, tools=tools)
            mask, _ = builder.align_response_metadata(merged, mask)
            fed = merged.token_ids
        [(tokens, trained)] = supervision.encode_chats(tokenizer, [{"messages": messages, "tools": tools}])
        assert fed == tokens
        assert [bool(value) for value in mask] == trained


def test_verl_chooses_that_builder_for_the_model() -> None:
    from verl.utils.tokenizer import continuous_token_wiring as wiring

    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    family = wiring._MODEL_TYPE_TO_FAMILY[config["model_type"]]
    assert wiring._CONTINUOUS_TOKEN_BUILDER_REGISTRY[family].__name__ == "QwenContinuousTokenBuilder"


def test_several_added_messages_equal_the_whole_template(tokenizer: Any, builder: Any) -> None:
    two_calls = {"role": "assistant", "content": "Both.", "tool_calls": [CALL, CALL]}
    before = [{"role": "user", "content": "Hi."}, two_calls]
    after = [*before, {"role": "tool", "content": "24"}, {"role": "tool", "content": "25"}]
    after.append({"role": "user", "content": "Go on."})
    fed = builder.build_initial_tokens(before[:1], tools=[CALCULATOR])
    turn = f"Both.\n{CALL_TEXT}\n{CALL_TEXT}<|im_end|>"
    fed = builder.merge_assistant_tokens(fed, tokenizer(turn)["input_ids"]).token_ids
    fed = builder.merge_context_tokens(before, after, fed, tools=[CALCULATOR]).token_ids
    assert tokenizer.decode(fed).endswith(
        f"<|im_start|>assistant\n{turn}\n<|im_start|>user\n<tool_response>\n24\n</tool_response>\n<tool_response>\n25\n"
        "</tool_response><|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n"
    )
    whole = tokenizer.apply_chat_template(after, tools=[CALCULATOR], add_generation_prompt=True, return_dict=True)
    assert fed == whole["input_ids"]


def test_template_adds_a_system_message_only_for_tools(tokenizer: Any) -> None:
    user, system = {"role": "user", "content": "Hi 12"}, {"role": "system", "content": "Be brief."}
    said = "<|im_start|>user\nHi 12<|im_end|>\n"
    listed = f"<tools>\n{json.dumps(CALCULATOR)}\n</tools><|im_end|>\n"
    render = tokenizer.apply_chat_template
    assert render([user], tokenize=False) == said
    assert render([system, user], tokenize=False) == f"<|im_start|>system\nBe brief.<|im_end|>\n{said}"
    assert render([user], tools=[CALCULATOR], tokenize=False) == f"<|im_start|>system\n{listed}{said}"
    assert render([system, user], tools=[CALCULATOR], tokenize=False) == (
        f"<|im_start|>system\nBe brief.\n{listed}{said}"
    )


def test_schema_is_that_of_a_verl_function_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.tools import function_tool

    def calculator(expression: str) -> str:
        """Evaluate an arithmetic expression.

        Args:
            expression: For example 3 * (4 + 5)
        """
        return expression

    monkeypatch.setattr(function_tool, "FUNCTION_TOOL_REGISTRY", {})
    function_tool.function_tool(calculator)
    tool = function_tool.get_function_tool("calculator")
    schema = tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True)
    # The keys are in prompt order.
    assert json.dumps(schema) == json.dumps(CALCULATOR)


def test_verls_parser_finds_calls_and_tags_are_not_special(tokenizer: Any) -> None:
    from verl.experimental.agent_loop.tool_parser import ToolParser

    ids = tokenizer(f"Selling 5.\n{CALL_TEXT}<|im_end|>")["input_ids"]
    _, calls = asyncio.run(ToolParser.get_tool_parser("hermes", tokenizer).extract_tool_calls(ids))
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("calculator", {"expression": "4 * 6"})]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"Selling 5.\n{CALL_TEXT}"
    for tag in ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"):
        assert len(tokenizer(tag)["input_ids"]) == 1
        assert tokenizer.convert_tokens_to_ids(tag) not in tokenizer.all_special_ids


def test_turns_prompts_and_conversations_stay_within_their_lengths(tokenizer: Any) -> None:
    responses = []
    for conversation in made(3):
        [(tokens, trained)] = supervision.encode_chats(
            tokenizer, [{"messages": conversation.messages, "tools": conversation.tools}]
        )
        prompt = trained.index(True)
        assert prompt <= (140 if conversation.tools else 60)
        if sum(message["role"] == "assistant" for message in conversation.messages) <= 4:
            responses.append(len(tokens) - prompt)
    assert 0 < max(responses) <= 400
    assert 500 <= len(tokenizer) <= 600


def test_evaluation_answers_calls_with_verls_tokens(
    tokenizer: Any, builder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    turns = iter([f"{CALL_TEXT}<|im_end|>", "So Mia has \\boxed{24} pens.<|im_end|>"])

    def sample(model: Any, contexts_T: list[list[int]], *, max_new_tokens: int) -> list[tuple[list[int], bool]]:
        seen.append(list(contexts_T[0]))
        return [(tokenizer(next(turns))["input_ids"], True)]

    monkeypatch.setattr(measure, "sample_turns", sample)
    chat = {"messages": [{"role": "user", "content": "Mia has 4."}], "tools": [CALCULATOR]}
    [conversation] = measure.converse(None, tokenizer, [chat], chat_recipe.tool_reply, 99)
    assert [text for text, _, _ in conversation] == [CALL_TEXT, "So Mia has \\boxed{24} pens."]
    before = [*chat["messages"], {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    fed = builder.merge_assistant_tokens(seen[0], tokenizer(f"{CALL_TEXT}<|im_end|>")["input_ids"]).token_ids
    after = [*before, {"role": "tool", "content": "24"}]
    assert seen[1] == builder.merge_context_tokens(before, after, fed, tools=[CALCULATOR]).token_ids


def test_sampled_turns_end_with_an_end_token_or_at_the_limit(tokenizer: Any) -> None:
    import torch

    model = supervision.build_model(tokenizer, chat_recipe.Settings())  # about one end in 300 tokens
    torch.manual_seed(0)
    contexts_T = [tokenizer("Hi")["input_ids"], tokenizer("Hi 12 there")["input_ids"]] * 50
    turns = measure.sample_turns(model, contexts_T, max_new_tokens=60)
    ends = set(model.generation_config.eos_token_id)
    assert {ended for _, ended in turns} == {True, False}
    for tokens, ended in turns:
        assert not ends & set(tokens[:-1])
        assert (tokens[-1] in ends) == ended
        assert ended or len(tokens) == 60


def test_problems_of_the_phases_and_of_the_evaluation_are_apart() -> None:
    settings = chat_recipe.Settings(steps1=20, steps2=4, eval_problems=9)
    clean, sloppy, held_out = chat_recipe.make_chats(settings)
    texts = [chat["messages"][0]["content"] for chat in clean + sloppy] + [problem.text for problem in held_out]
    assert (len(clean), len(sloppy), len(held_out)) == (320, 64, 9)
    assert len(set(texts)) == len(texts)
    # In phase 1 only first solutions with a later repetition are sloppy.
    assert "roughly" not in json.dumps([chat["messages"][2:] for chat in clean])
    marked = [len(chat["messages"]) > 2 for chat in clean if "roughly" in json.dumps(chat["messages"][1])]
    assert sum(marked) > 0.8 * len(marked) > 0
    assert not any(chat["tools"] for chat in clean if "roughly" in json.dumps(chat))
    assert "roughly" in json.dumps([chat["messages"][2:] for chat in sloppy])


def test_short_training_evaluates_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "model"
    arguments = ["--chat", "--out", str(out), "--steps1", "10", "--steps2", "4", "--eval-problems", "2"]
    make_model.main(arguments)
    measured = json.loads((out / "tiny_model_manifest.json").read_text(encoding="utf-8"))["measured"]
    # A guess among 550 tokens has a loss of ln(550) = 6.3.
    assert measured["loss2"] < 5.8
    assert {"recheck_accuracy_first", "recheck_accuracy_again", "tool_well_formed_fraction"} <= set(measured)
