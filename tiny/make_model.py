# SPDX-License-Identifier: Apache-2.0
"""Make the tiny model that the CPU training runs start from; ``tiny/model`` in the repository is its result.

    python -m tiny.make_model --out tiny/model         about 5 minutes on two cores

A Qwen2 of 0.84 M parameters with a tokenizer of its own is supervised on the word problems of
``tiny.problems`` in two phases: first on clean solutions until it can do the arithmetic, then
on solutions in which some steps carry a marker word and are mostly wrong. What comes out can do the
arithmetic but is often sloppy, so at temperature 1 it solves a part of the problems, and reinforcement
learning can raise that part within a few minutes on a CPU by unlearning the marker.

**This is evidence that learning works from end to end (sampler, reward, advantage, update, weight sync).
It is no evidence about reasoning, nor about which algorithm is better on real problems.**

The supervised prompt is what verl feeds at RL time with the ``plain`` prompt template of
``python -m data_prep``: the chat template over one user message with the problem alone. No system
message is added where none is given (Qwen2.5 adds one; it would lengthen every prompt by a constant).

The work is fixed in steps, not in seconds. Rounding differs between processors and versions of torch, and so do the
weights: with 1,280 steps of phase 1, 0.30 and 0.41 of the held-out problems were right for one seed. The directory is
written beside its place and renamed; its manifest holds command, settings, versions, measurements and checksums.
"""

from __future__ import annotations

import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiny import problems as tiny_problems
from tiny.supervision import ModelSettings, Recipe, boxed_answer, sample_turns, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

logger = logging.getLogger(__name__)

PROMPT_TEMPLATE = "plain"
"""The ``--template`` of ``python -m data_prep`` that the model expects: it keeps prompts short."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """Hold everything that decides the weights."""

    steps1: int = 1800
    """Optimizer steps on clean solutions."""
    steps2: int = 210
    """Optimizer steps on solutions with sloppy steps."""
    sloppy_rate: float = 0.23
    """Share of the steps marked sloppy in phase 2."""
    eval_problems: int = 200
    """Held-out problems sampled at the end; 0 skips the evaluation."""
    eval_samples: int = 8
    """Samples per held-out problem, at temperature 1."""
    max_response: int = 128
    """Most tokens of a sampled response."""


def prompt_texts(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the text that verl feeds for each row: chat template over the data's messages, generation prompt."""
    from data_prep.prompts import build_prompt

    chats = [build_prompt(row["problem"], PROMPT_TEMPLATE) for row in rows]
    texts: list[str] = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    return texts


def evaluate(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], settings: Settings
) -> dict[str, float]:
    """Sample responses to held-out problems at temperature 1 and count what matters for RL."""
    import torch

    torch.manual_seed(settings.seed)
    model.eval()
    rows = sorted(rows, key=lambda row: len(row["problem"]))
    contexts_P = tokenizer(prompt_texts(tokenizer, rows), add_special_tokens=False)["input_ids"]
    lengths: list[int] = []
    ended: list[bool] = []
    right: list[list[bool]] = []
    for begin in range(0, len(rows), 50):
        prompts = contexts_P[begin : begin + 50]
        repeated = [prompt for prompt in prompts for _ in range(settings.eval_samples)]
        turns = sample_turns(model, repeated, max_new_tokens=settings.max_response)
        lengths += [len(tokens) for tokens, _ in turns]
        ended += [is_end for _, is_end in turns]
        texts = tokenizer.batch_decode([tokens for tokens, _ in turns])
        for index, row in enumerate(rows[begin : begin + 50]):
            group = texts[index * settings.eval_samples : (index + 1) * settings.eval_samples]
            right.append([boxed_answer(text) == boxed_answer(str(row["solution"])) for text in group])
    return {
        "accuracy": statistics.fmean(statistics.fmean(group) for group in right),
        "mixed_outcome_fraction": statistics.fmean(0 < sum(group) < len(group) for group in right),
        "ended_fraction": statistics.fmean(ended),
        "prompt_tokens_mean": statistics.fmean(map(len, contexts_P)),
        "prompt_tokens_max": max(map(len, contexts_P)),
        "response_tokens_mean": statistics.fmean(lengths),
        "response_tokens_max": max(lengths),
    }


def make_rows(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the clean rows, the sloppy rows and the held-out rows; no problem is in two of them."""
    clean = tiny_problems.generate_rows(settings.steps1 * settings.batch_size, seed=3 * settings.seed + 1_000_000)
    sloppy = tiny_problems.generate_rows(
        settings.steps2 * settings.batch_size,
        seed=3 * settings.seed + 1_000_001,
        sloppy_rate=settings.sloppy_rate,
        exclude=tiny_problems.problem_texts(clean),
    )
    held_out = tiny_problems.held_out_rows(settings.eval_problems, 3 * settings.seed + 1_000_002, clean + sloppy)
    return clean, sloppy, held_out


def make_tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    """Train the tokenizer on problems and solutions."""
    rows = tiny_problems.generate_rows(2000, seed=3 * settings.seed + 999_999, sloppy_rate=0.25)
    # The roles stand in no text, and are words that every prompt has.
    texts = (f"system\nuser\nassistant\n{row['problem']}\n{row['solution']}" for row in rows)
    return train_tokenizer(texts, settings, chat_template=CHAT_TEMPLATE)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the model; see ``--help``."""
    Recipe(
        command="python -m tiny.make_model --out tiny/model",
        description="Make the tiny model for training runs on a CPU.",
        settings=Settings(),
        make_tokenizer=make_tokenizer,
        make_data=make_rows,
        evaluate=evaluate,
    ).run(argv)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
