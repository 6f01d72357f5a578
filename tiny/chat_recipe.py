# SPDX-License-Identifier: Apache-2.0
"""Recipe of the tiny chat model, trained on the conversations of ``tiny.conversations``.

The model re-checks its solutions on request, and uses a calculator. Architecture and training match the tiny model:
first clean conversations, most of them a single solution, until the model can do the arithmetic; then sloppy
conversations of both kinds.

The chat template is Qwen2.5's with shorter texts and without a default system message. Its tokens equal those of
verl's Continuous Token builder for Qwen2, turn by turn, so supervised training and RL use the same tokens.
``<tool_call>`` and the other tags are tokens but not special, as in Qwen2.5, so decoded text keeps them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiny import conversations as tiny_conversations
from tiny import problems as tiny_problems
from tiny.conversations import CHECK_AGAIN, FINAL_ANSWER, Conversation, Sloppiness, conversations
from tiny.measure import Chat, Reply, boxed_answer, measure
from tiny.supervision import ModelSettings, Recipe, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
CHAT_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n' }}{% endif %}"
    "{{ '<tools>' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + message['content'] + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif message['tool_calls'] %}"
    "{{ '<|im_start|>assistant' }}{% if message['content'] %}{{ '\n' + message['content'] }}{% endif %}"
    "{% for call in message['tool_calls'] %}"
    """{{ '\n<tool_call>\n{"name": "' + call['function']['name'] + '", "arguments": ' }}"""
    "{{ (call['function']['arguments'] | tojson) + '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """Settings that determine the weights."""

    steps1: int = 1900
    """Optimizer steps on clean conversations, most of them a single solution."""
    steps2: int = 300
    """Optimizer steps on sloppy conversations."""
    vocab_size: int = 600
    tool_share1: float = 0.3
    """Share of the tool kind in phase 1. It teaches how to find values in other messages, but no arithmetic."""
    again_share1: float = 0.3
    """Share of the problems of phase 1 with repeated solutions. The first solution is sloppy, as in phase 2, the others
    are clean: from clean ones alone, the model would learn to copy its own text."""
    tool_share2: float = 0.5
    sloppy_first: float = 0.25
    """Share of the steps marked sloppy in the first solutions of phase 2."""
    sloppy_again: float = 0.16
    """The same share in solutions after a re-check."""
    sloppy_tool: float = 0.2
    """The same share in tool conversations."""
    eval_problems: int = 25
    """Held-out problems sampled at the end, for each kind; 0 skips the evaluation."""
    eval_samples: int = 4
    """Conversations per held-out problem, at temperature 1."""
    max_turn: int = 112
    """Maximum number of tokens of a sampled turn."""

    @property
    def sloppiness(self) -> Sloppiness:
        """Rates of phase 2."""
        return Sloppiness(first=self.sloppy_first, again=self.sloppy_again, tool=self.sloppy_tool)


def chats(made: Sequence[Conversation]) -> list[Chat]:
    """Convert conversations to the input of the chat template."""
    return [{"messages": conversation.messages, "tools": conversation.tools} for conversation in made]


def make_chats(settings: Settings) -> tuple[list[Chat], list[Chat], list[tiny_problems.WordProblem]]:
    """Return the clean chats, the sloppy chats and the held-out problems, which share no problem."""
    counts = [settings.steps1 * settings.batch_size, settings.steps2 * settings.batch_size, settings.eval_problems]
    problems = tiny_problems.generate_problems(sum(counts), seed=3_000_000 + settings.seed)
    clean, sloppy = problems[: counts[0]], problems[counts[0] : counts[0] + counts[1]]
    once = round(counts[0] * (1 - settings.again_share1))
    first = conversations(clean[:once], settings.seed, Sloppiness(), tool_share=settings.tool_share1, max_turns=1)
    careful = Sloppiness(first=settings.sloppy_first)
    first += conversations(clean[once:], settings.seed + 3, careful, tool_share=settings.tool_share1)
    second = conversations(sloppy, settings.seed + 1, settings.sloppiness, tool_share=settings.tool_share2)
    return chats(first), chats(second), problems[counts[0] + counts[1] :]


def make_tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    """Train the tokenizer on the texts of conversations, without the tags, which are added tokens."""
    problems = tiny_problems.generate_problems(1500, seed=2_000_000 + settings.seed)
    made = conversations(problems, settings.seed + 2, settings.sloppiness, tool_share=0.3)
    texts = []
    for conversation in made:
        calls = [call["function"] for message in conversation.messages for call in message.get("tool_calls", [])]
        parts = ["system\nuser\nassistant\n<tools>", *map(json.dumps, conversation.tools or []), "</tools>"]
        parts += [message["content"] for message in conversation.messages] + [json.dumps(call) for call in calls]
        texts.append("\n".join(parts))
    return train_tokenizer(texts, settings, chat_template=CHAT_TEMPLATE, added=TAGS)


def recheck_reply(turn: int, text: str) -> dict[str, Any] | None:
    """Request a second solution, then the final answer, whether right or not."""
    del text
    return {1: {"role": "user", "content": CHECK_AGAIN}, 2: {"role": "user", "content": FINAL_ANSWER}}.get(turn)


def tool_reply(turn: int, text: str) -> dict[str, Any] | None:
    """Answer a well-formed call; end the conversation after anything else, or after eight turns."""
    expression = tiny_conversations.parse_call(text)
    if expression is None or turn == 8:
        return None
    return {"role": "tool", "content": tiny_conversations.calculate(expression)}


def evaluate(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[tiny_problems.WordProblem],
    settings: Settings,
) -> dict[str, float]:
    """Sample conversations of both kinds on held-out problems and measure them."""
    problems = sorted(problems, key=lambda problem: len(problem.text))
    answers = [str(tiny_problems.right_answer(problem)) for problem in problems]
    kinds: tuple[tuple[str, list[dict[str, Any]] | None, Reply], ...] = (
        ("recheck", None, recheck_reply),
        ("tool", [tiny_conversations.CALCULATOR], tool_reply),
    )
    measured: dict[str, float] = {}
    for kind, tools, reply in kinds:
        prompts = [{"messages": [{"role": "user", "content": problem.text}], "tools": tools} for problem in problems]
        samples = settings.eval_samples
        sampled, results = measure(
            model, tokenizer, prompts, answers, samples=samples, reply=reply, max_turn=settings.max_turn
        )
        if kind == "recheck":
            for name, at in (("first", 0), ("again", 1)):
                right = [
                    boxed_answer(turns[at].text) == answers[index // samples]
                    for index, turns in enumerate(sampled)
                    if len(turns) > at
                ]
                results[f"accuracy_{name}"] = statistics.fmean(right)
        else:
            # A well-formed turn has one call and no answer, or an answer and no call.
            results["well_formed_fraction"] = statistics.fmean(
                (tiny_conversations.parse_call(turn.text) is not None) != (boxed_answer(turn.text) is not None)
                for turns in sampled
                for turn in turns
            )
        measured |= {f"{kind}_{name}": value for name, value in results.items()}
    return measured


RECIPE = Recipe(settings=Settings(), make_tokenizer=make_tokenizer, make_data=make_chats, evaluate=evaluate)
