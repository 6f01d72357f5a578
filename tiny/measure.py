# SPDX-License-Identifier: Apache-2.0
"""Sample conversations from a tiny model at temperature 1, and measure accuracy and length."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

BATCH_PROMPTS = 50
"""Prompts per batch, each repeated for all its samples."""

Chat = dict[str, Any]
"""``messages`` and ``tools`` (or None), the input of the chat template."""
Reply = Callable[[int, str], dict[str, Any] | None]
"""Function from the number of turns so far and the last turn's text to the next message; None ends the conversation."""


class Turn(NamedTuple):
    """Text of a sampled turn, number of its tokens with the end token, and whether it ended."""

    text: str
    length: int
    ended: bool


def no_reply(turn: int, text: str) -> None:
    """End every conversation after one turn."""
    del turn, text


def boxed_answer(text: str) -> str | None:
    """Return the content of the last ``\\boxed{...}`` of a text, or None."""
    answers = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return answers[-1] if answers else None


def sample_turns(
    model: Qwen2ForCausalLM, contexts_T: Sequence[list[int]], *, max_new_tokens: int
) -> list[tuple[list[int], bool]]:
    """Sample one turn per context at temperature 1; return its tokens with the end token, and whether it ended."""
    import torch

    ends = set(model.generation_config.eos_token_id)
    longest = max(map(len, contexts_T))
    ids = torch.full((len(contexts_T), longest), model.config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(contexts_T):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": max_new_tokens}
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=mask, **options)
    turns = []
    for tokens in output[:, longest:].tolist():
        cut = next((at for at, token in enumerate(tokens) if token in ends), None)
        turns.append((tokens if cut is None else tokens[: cut + 1], cut is not None))
    return turns


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Chat]) -> list[list[int]]:
    """Return the tokens that verl feeds before the first turn."""
    texts = [
        tokenizer.apply_chat_template(chat["messages"], tools=chat["tools"], tokenize=False, add_generation_prompt=True)
        for chat in prompts
    ]
    tokens: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return tokens


def converse(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Chat], reply: Reply, max_turn: int
) -> list[list[Turn]]:
    """Sample one conversation per prompt; return its turns, each of at most ``max_turn`` tokens."""
    contexts_T = prompt_tokens(tokenizer, prompts)
    sampled: list[list[Turn]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    while going:
        turns = sample_turns(model, [contexts_T[at] for at in going], max_new_tokens=max_turn)
        still = []
        for at, (tokens, ended) in zip(going, turns, strict=True):
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            sampled[at].append(Turn(text, len(tokens), ended))
            message = reply(len(sampled[at]), text) if ended else None
            if message:
                added = "\n" + tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
                contexts_T[at] += tokens + tokenizer(added, add_special_tokens=False)["input_ids"]
                still.append(at)
        going = still
    return sampled


def measure(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Chat],
    answers: Sequence[str | None],
    *,
    samples: int,
    reply: Reply,
    max_turn: int,
) -> tuple[list[list[Turn]], dict[str, float]]:
    """Sample conversations and measure them.

    Args:
        model: model in evaluation mode.
        tokenizer: its tokenizer.
        prompts: prompts, sorted by length to save padding.
        answers: right answer of each prompt.
        samples: conversations per prompt.
        reply: messages between the turns.
        max_turn: maximum number of tokens per turn.

    Returns:
        All conversations, grouped by prompt; accuracies and lengths.
    """
    sampled: list[list[Turn]] = []
    for begin in range(0, len(prompts), BATCH_PROMPTS):
        repeated = [prompt for prompt in prompts[begin : begin + BATCH_PROMPTS] for _ in range(samples)]
        sampled += converse(model, tokenizer, repeated, reply, max_turn)
    right = [boxed_answer(turns[-1].text) == answers[at // samples] for at, turns in enumerate(sampled)]
    right_of_prompt = [sum(right[at : at + samples]) for at in range(0, len(right), samples)]
    turns = [turn for conversation in sampled for turn in conversation]
    prompt_lengths = [len(tokens) for tokens in prompt_tokens(tokenizer, prompts)]
    return sampled, {
        "accuracy": statistics.fmean(right),
        "mixed_outcome_fraction": statistics.fmean(0 < number < samples for number in right_of_prompt),
        "ended_fraction": statistics.fmean(turn.ended for turn in turns),
        "turns_mean": len(turns) / len(sampled),
        "turn_tokens_mean": statistics.fmean(turn.length for turn in turns),
        "turn_tokens_max": max(turn.length for turn in turns),
        "prompt_tokens_mean": statistics.fmean(prompt_lengths),
        "prompt_tokens_max": max(prompt_lengths),
    }
