# SPDX-License-Identifier: Apache-2.0
"""Make the tiny model that holds conversations: it checks a solution again when asked, and uses a calculator.

``tiny/chat_model`` in the repository is its result:

    python -m tiny.make_chat_model --out tiny/chat_model         about 10 minutes on two cores

It is the model of ``make_tiny_model.py`` (same architecture, same way of training), supervised on the conversations of
``tiny.conversations``: first on clean ones, most of them a single solution, until it can do the arithmetic;
then on sloppy ones of both kinds. At temperature 1 it is right in a part of the conversations, and reinforcement
learning can raise that part. What is said there about evidence holds here.

The chat template is that of Qwen2.5 with shorter texts and without a system message of its own. Its tokens are those
of verl's Continuous Token builder for Qwen2, turn by turn, so what is supervised is what verl feeds at RL time.
``<tool_call>`` and its like are tokens but not special, as in Qwen2.5: text decoded without special tokens keeps them.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiny import conversations as tiny_conversations
from tiny import problems as tiny_problems
from tiny.conversations import CHECK_AGAIN, FINAL_ANSWER, Conversation, Sloppiness, conversations
from tiny.supervision import ModelSettings, Recipe, boxed_answer, sample_turns, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

logger = logging.getLogger(__name__)

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
    """Hold everything that decides the weights."""

    steps1: int = 1900
    """Optimizer steps on clean conversations, of which most are one solution."""
    steps2: int = 300
    """Optimizer steps on sloppy conversations."""
    vocab_size: int = 600
    tool_share1: float = 0.3
    """Share of the tool kind in phase 1; it teaches no arithmetic, but to find values in other messages."""
    again_share1: float = 0.3
    """Share of the problems of phase 1 whose solutions are asked for again. The first one is sloppy, as in phase 2, and
    the others are not: from right ones alone the model would learn to copy what it has written."""
    tool_share2: float = 0.5
    sloppy_first: float = 0.25
    """Share of the steps marked sloppy in the first solutions of phase 2."""
    sloppy_again: float = 0.16
    """The same in solutions after a re-check."""
    sloppy_tool: float = 0.2
    """The same in tool conversations."""
    eval_problems: int = 25
    """Held-out problems sampled at the end with either kind; 0 skips the evaluation."""
    eval_samples: int = 4
    """Conversations per held-out problem, at temperature 1."""
    max_turn: int = 112
    """Most tokens of a sampled turn."""

    @property
    def sloppiness(self) -> Sloppiness:
        """Return the rates of phase 2."""
        return Sloppiness(first=self.sloppy_first, again=self.sloppy_again, tool=self.sloppy_tool)


Chat = dict[str, Any]
Reply = Callable[[int, str], dict[str, Any] | None]


def chats(made: Sequence[Conversation]) -> list[Chat]:
    """Return conversations as the chat template takes them."""
    return [{"messages": conversation.messages, "tools": conversation.tools} for conversation in made]


def make_chats(settings: Settings) -> tuple[list[Chat], list[Chat], list[tiny_problems.Problem]]:
    """Return the clean chats, the sloppy ones and the held-out problems; no problem is in two of them."""
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
    """Train the tokenizer on what conversations are made of, without the tags, which are tokens of their own."""
    problems = tiny_problems.generate_problems(1500, seed=2_000_000 + settings.seed)
    made = conversations(problems, settings.seed + 2, settings.sloppiness, tool_share=0.3)
    texts = []
    for conversation in made:
        calls = [call["function"] for message in conversation.messages for call in message.get("tool_calls", [])]
        parts = ["system\nuser\nassistant\n<tools>", *map(json.dumps, conversation.tools or []), "</tools>"]
        parts += [message["content"] for message in conversation.messages] + [json.dumps(call) for call in calls]
        texts.append("\n".join(parts))
    return train_tokenizer(texts, settings, chat_template=CHAT_TEMPLATE, added=TAGS)


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Chat]) -> list[list[int]]:
    """Return what verl feeds before the first turn."""
    texts = [
        tokenizer.apply_chat_template(chat["messages"], tools=chat["tools"], tokenize=False, add_generation_prompt=True)
        for chat in prompts
    ]
    tokens: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return tokens


def recheck_reply(turn: int, text: str) -> dict[str, Any] | None:
    """Ask for a second solution and then for the final answer, whether right or not."""
    del text
    return {1: {"role": "user", "content": CHECK_AGAIN}, 2: {"role": "user", "content": FINAL_ANSWER}}.get(turn)


def tool_reply(turn: int, text: str) -> dict[str, Any] | None:
    """Answer a well-formed call; anything else ends the conversation, and so do eight turns."""
    expression = tiny_conversations.parse_call(text)
    if expression is None or turn == 8:
        return None
    return {"role": "tool", "content": tiny_conversations.calculate(expression)}


def converse(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Chat], reply: Reply, max_turn: int
) -> list[list[tuple[str, int, bool]]]:
    """Sample a conversation from each prompt; return for each turn its text, its tokens' number and if it ended."""
    contexts_T = prompt_tokens(tokenizer, prompts)
    done: list[list[tuple[str, int, bool]]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    while going:
        turns = sample_turns(model, [contexts_T[at] for at in going], max_new_tokens=max_turn)
        still = []
        for at, (tokens, ended) in zip(going, turns, strict=True):
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            done[at].append((text, len(tokens), ended))
            message = reply(len(done[at]), text) if ended else None
            if message:
                added = "\n" + tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
                contexts_T[at] += tokens + tokenizer(added, add_special_tokens=False)["input_ids"]
                still.append(at)
        going = still
    return done


def evaluate(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[tiny_problems.Problem],
    settings: Settings,
) -> dict[str, float]:
    """Sample conversations of both kinds on held-out problems and count what matters for RL."""
    import torch

    torch.manual_seed(settings.seed)
    model.eval()
    measured: dict[str, float] = {}
    problems = sorted(problems, key=lambda problem: len(problem.text))
    answers = [str(tiny_problems.right_answer(problem)) for problem in problems for _ in range(settings.eval_samples)]
    for kind, tools, reply in (
        ("recheck", None, recheck_reply),
        ("tool", [tiny_conversations.CALCULATOR], tool_reply),
    ):
        prompts = [{"messages": [{"role": "user", "content": problem.text}], "tools": tools} for problem in problems]
        repeated = [prompt for prompt in prompts for _ in range(settings.eval_samples)]
        sampled = converse(model, tokenizer, repeated, reply, settings.max_turn)
        right = [boxed_answer(turns[-1][0]) == answer for turns, answer in zip(sampled, answers, strict=True)]
        outcomes = [sum(right[at : at + settings.eval_samples]) for at in range(0, len(right), settings.eval_samples)]
        turns = [turn for conversation in sampled for turn in conversation]
        lengths = [length for _, length, _ in turns]
        prompt_lengths = [len(tokens) for tokens in prompt_tokens(tokenizer, prompts)]
        results = {
            "accuracy": statistics.fmean(right),
            "mixed_outcome_fraction": statistics.fmean(0 < n < settings.eval_samples for n in outcomes),
            "ended_fraction": statistics.fmean(ended for _, _, ended in turns),
            "turns_mean": len(turns) / len(sampled),
            "turn_tokens_mean": statistics.fmean(lengths),
            "turn_tokens_max": max(lengths),
            "prompt_tokens_mean": statistics.fmean(prompt_lengths),
            "prompt_tokens_max": max(prompt_lengths),
        }
        if kind == "recheck":
            for name, at in (("first", 0), ("again", 1)):
                pairs = [(t[at][0], a) for t, a in zip(sampled, answers, strict=True) if len(t) > at]
                results[f"accuracy_{name}"] = statistics.fmean(boxed_answer(text) == a for text, a in pairs)
        else:
            # A turn is well formed that has one call and no answer, or an answer and no call.
            results["well_formed_fraction"] = statistics.fmean(
                (tiny_conversations.parse_call(text) is not None) != (boxed_answer(text) is not None)
                for text, _, _ in turns
            )
        measured |= {f"{kind}_{name}": value for name, value in results.items()}
    return measured


def main(argv: Sequence[str] | None = None) -> None:
    """Make the model; see ``--help``."""
    Recipe(
        command="python -m tiny.make_chat_model --out tiny/chat_model",
        description="Make the tiny chat model for training runs on a CPU.",
        settings=Settings(),
        make_tokenizer=make_tokenizer,
        make_data=make_chats,
        evaluate=evaluate,
    ).run(argv)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
