# SPDX-License-Identifier: Apache-2.0
"""Recipe of the tiny model, trained on worked solutions of the word problems of ``tiny.problems``.

The supervised prompt equals the RL prompt with the ``plain`` prompt template of ``python -m data_prep``: the chat
template over one user message with the problem alone. The chat template has no default system message (Qwen2.5's has
one, which would lengthen every prompt by a constant).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_prep.prompts import build_prompt
from tiny import problems as tiny_problems
from tiny.measure import boxed_answer, measure, no_reply
from tiny.supervision import ModelSettings, Recipe, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

PROMPT_TEMPLATE = "plain"
"""``--template`` of ``python -m data_prep`` for this model; it keeps prompts short."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """Settings that determine the weights."""

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
    """Maximum number of tokens of a sampled response."""


def evaluate(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], settings: Settings
) -> dict[str, float]:
    """Sample responses to held-out problems and measure them."""
    rows = sorted(rows, key=lambda row: len(row["problem"]))
    prompts = [{"messages": build_prompt(row["problem"], PROMPT_TEMPLATE), "tools": None} for row in rows]
    answers = [boxed_answer(row["solution"]) for row in rows]
    _, results = measure(
        model,
        tokenizer,
        prompts,
        answers,
        samples=settings.eval_samples,
        reply=no_reply,
        max_turn=settings.max_response,
    )
    return results


def make_rows(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the clean rows, the sloppy rows and the held-out rows, which share no problem."""
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
    return tokenizer_of(rows, settings)


def tokenizer_of(rows: Sequence[dict[str, Any]], settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Train a tokenizer on the problems and solutions of rows."""
    # Every prompt has the roles, but no problem or solution does.
    texts = (f"system\nuser\nassistant\n{row['problem']}\n{row['solution']}" for row in rows)
    return train_tokenizer(texts, settings, chat_template=CHAT_TEMPLATE)


RECIPE = Recipe(settings=Settings(), make_tokenizer=make_tokenizer, make_data=make_rows, evaluate=evaluate)
