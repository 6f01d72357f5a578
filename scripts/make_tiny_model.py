# SPDX-License-Identifier: Apache-2.0
"""Make the tiny model that the CPU training runs start from.

A Qwen2 of 0.85 M parameters with a tokenizer of its own is supervised on the word problems of
``data_prep.tiny_problems`` in two phases: first on clean solutions until it can do the arithmetic, then
on solutions in which some steps carry a marker word and are mostly wrong. What comes out can do the
arithmetic but is often sloppy, so at temperature 1 it solves a part of the problems, and reinforcement
learning can raise that part within a few minutes on a CPU by unlearning the marker.

**This is evidence that learning works from end to end (sampler, reward, advantage, update, weight sync).
It is no evidence about reasoning, nor about which algorithm is better on real problems.**

The supervised prompt is what verl feeds at RL time with the ``plain`` prompt template of
``python -m data_prep``: the chat template over one user message with the problem alone. No system
message is added where none is given (Qwen2.5 adds one; it would lengthen every prompt by a constant).

The work is fixed in steps, not in seconds. A complete model made with the same settings and code is kept
(checked before torch is imported). The directory is written beside its place and renamed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import logging
import math
import os
import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_prep import tiny_problems  # noqa: E402

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

logger = logging.getLogger(__name__)

MANIFEST = "tiny_model_manifest.json"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PROMPT_TEMPLATE = "plain"
"""The ``--template`` of ``python -m data_prep`` that the model expects: it keeps prompts short."""
IGNORED = -100
"""Label of tokens that the loss leaves out: prompt and padding."""

# The way Qwen2 cuts text into words before the merges; \p{N} stands alone, so every digit is a token.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hold everything that decides the weights; its hash decides whether a cached model is kept."""

    seed: int = 0
    random_weights: bool = False
    """Skip the training: for tests that need a model directory and no skill."""
    steps1: int = 1280
    """Optimizer steps on clean solutions."""
    steps2: int = 210
    """Optimizer steps on solutions with sloppy steps."""
    lr1: float = 3e-3
    lr2: float = 1e-3
    warmup: int = 40
    """Steps over which the learning rate of each phase rises from 0."""
    batch_size: int = 16
    sloppy_rate: float = 0.23
    """Share of the steps marked sloppy in phase 2."""
    eval_problems: int = 200
    """Held-out problems sampled at the end; 0 skips the evaluation."""
    eval_samples: int = 8
    """Samples per held-out problem, at temperature 1."""
    max_response: int = 128
    """Most tokens of a sampled response."""
    vocab_size: int = 500
    """Most tokens of the tokenizer, the special ones included; the model's vocabulary is what comes out."""
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    max_position_embeddings: int = 2048
    initializer_range: float = 0.06
    """Standard deviation of the random weights. 0.02, the default for large models, learns several times slower."""


def code_fingerprint(path: Path) -> str:
    """Hash a source file without its comments and docstrings, whose changes need no new model."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def fingerprint(settings: Settings) -> str:
    """Hash the settings and the code that makes problems and model."""
    parts = [json.dumps(asdict(settings), sort_keys=True)]
    parts += [code_fingerprint(Path(path)) for path in (__file__, tiny_problems.__file__)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def cached_manifest(out: Path, settings: Settings) -> dict[str, Any] | None:
    """Return the manifest of a complete model in ``out`` made with these settings, else None."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    files = manifest.get("files", {})
    complete = bool(files) and all((out / f).is_file() and (out / f).stat().st_size == n for f, n in files.items())
    return manifest if complete and manifest.get("fingerprint") == fingerprint(settings) else None


def train_tokenizer(rows: Sequence[dict[str, Any]], settings: Settings) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer on the rows' texts; no text is unknown to it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    roles = "system\nuser\nassistant\n"
    backend.train_from_iterator((f"{roles}{row['problem']}\n{row['solution']}" for row in rows), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START, TURN_END],
        model_max_length=settings.max_position_embeddings,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Qwen2ForCausalLM:
    """Make a Qwen2 with random weights whose vocabulary is exactly the tokenizer's."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(settings.seed)
    turn_end, end_of_text = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.max_position_embeddings,
        initializer_range=settings.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=turn_end,
        pad_token_id=end_of_text,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    # Two ends of sequence, as in Qwen2.5-Instruct: whoever looks at one only lets paths run on.
    model.generation_config = GenerationConfig(
        do_sample=True,
        bos_token_id=end_of_text,
        pad_token_id=end_of_text,
        eos_token_id=[turn_end, end_of_text],
    )
    return model


def prompt_texts(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the text that verl feeds for each row: chat template over the data's messages, generation prompt."""
    from data_prep.prompts import build_prompt

    chats = [build_prompt(row["problem"], PROMPT_TEMPLATE) for row in rows]
    return tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]) -> list[tuple[list[int], int]]:
    """Return, for each row, the ids of prompt + response + end of turn, and the length of the prompt."""
    if not rows:
        return []
    prompts_P = tokenizer(prompt_texts(tokenizer, rows), add_special_tokens=False)["input_ids"]
    responses_T = tokenizer([row["solution"] + TURN_END for row in rows], add_special_tokens=False)["input_ids"]
    return [(prompt + response, len(prompt)) for prompt, response in zip(prompts_P, responses_T, strict=True)]


def batches(
    sequences: Sequence[tuple[list[int], int]], batch_size: int, pad: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (input ids, labels), each (batch_size, longest in the batch), padded on the right.

    Sequences of similar length meet in a batch, which leaves little padding; the batches come in random
    order. Labels are shifted already: ``labels[:, t]`` is the token after ``ids[:, t]``, or ``IGNORED``.
    """
    import torch

    order = sorted(range(len(sequences)), key=lambda index: (len(sequences[index][0]), rng.random()))
    groups = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    rng.shuffle(groups)
    for group in groups:
        longest = max(len(sequences[index][0]) for index in group)
        ids = torch.full((len(group), longest), pad)
        labels = torch.full((len(group), longest), IGNORED)
        for row, index in enumerate(group):
            tokens, prompt_length = sequences[index]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, prompt_length - 1 : len(tokens) - 1] = torch.tensor(tokens[prompt_length:])
        yield ids, labels


def response_loss(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over the response tokens; logits are made for those alone.

    There is no attention mask: under causal attention padding on the right changes nothing before it.
    """
    import torch

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    trained = labels != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[trained]), labels[trained])


def train_phase(
    model: Qwen2ForCausalLM, data: Sequence[tuple[list[int], int]], settings: Settings, *, name: str, peak_lr: float
) -> float:
    """Train one pass over ``data``, with a warm-up and a cosine down to a tenth; return the last losses' mean."""
    import torch
    from tqdm import tqdm

    total = math.ceil(len(data) / settings.batch_size)
    if total == 0:
        return math.nan
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    pad = model.config.pad_token_id
    losses: list[float] = []
    model.train()
    with tqdm(batches(data, settings.batch_size, pad, random.Random(f"{name}/{settings.seed}")), total=total) as bar:
        bar.set_description(name)
        for step, (ids, labels) in enumerate(bar):
            decay = 0.55 + 0.45 * math.cos(math.pi * step / total)
            optimizer.param_groups[0]["lr"] = peak_lr * min(1.0, (step + 1) / settings.warmup) * decay
            loss = response_loss(model, ids, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if step % 20 == 0:
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return statistics.fmean(losses[-20:])


def boxed_answer(text: str) -> str | None:
    """Return what the last ``\\boxed{...}`` of a text holds, or None."""
    found = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return found[-1] if found else None


def evaluate(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], settings: Settings
) -> dict[str, float]:
    """Sample responses to held-out problems at temperature 1 and count what matters for RL."""
    import torch

    torch.manual_seed(settings.seed)
    model.eval()
    ends = set(model.generation_config.eos_token_id)
    rows = sorted(rows, key=lambda row: len(row["problem"]))
    prompt_lengths: list[int] = []
    lengths: list[int] = []
    ended: list[bool] = []
    right: list[list[bool]] = []
    for begin in range(0, len(rows), 50):
        chunk = rows[begin : begin + 50]
        inputs = tokenizer(prompt_texts(tokenizer, chunk), return_tensors="pt", padding=True, add_special_tokens=False)
        prompt_lengths += inputs["attention_mask"].sum(dim=1).tolist()
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=settings.eval_samples,
                max_new_tokens=settings.max_response,
            )
        responses_T = output[:, inputs["input_ids"].shape[1] :].tolist()
        for row, group in zip(chunk, _chunks(responses_T, settings.eval_samples), strict=True):
            cuts = [next((at for at, token in enumerate(r) if token in ends), None) for r in group]
            ended += [cut is not None for cut in cuts]
            lengths += [settings.max_response if cut is None else cut + 1 for cut in cuts]
            texts = tokenizer.batch_decode([r[:cut] for r, cut in zip(group, cuts, strict=True)])
            right.append([boxed_answer(text) == boxed_answer(str(row["solution"])) for text in texts])
    return {
        "accuracy": statistics.fmean(statistics.fmean(group) for group in right),
        "mixed_outcome_fraction": statistics.fmean(0 < sum(group) < len(group) for group in right),
        "ended_fraction": statistics.fmean(ended),
        "prompt_tokens_mean": statistics.fmean(prompt_lengths),
        "prompt_tokens_max": max(prompt_lengths),
        "response_tokens_mean": statistics.fmean(lengths),
        "response_tokens_max": max(lengths),
    }


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    """Cut a list into pieces of ``size``."""
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


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


def make_model(out: Path, settings: Settings) -> dict[str, Any]:
    """Train (or only initialise) the model, write it to ``out`` and return the manifest."""
    # Read when torch loads OpenMP. Threads that spin at barriers cost a factor of ten and more as soon as
    # another process wants a core; threads that sleep cost next to nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    started = time.perf_counter()
    made_from = fingerprint(settings)
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer_rows = tiny_problems.generate_rows(2000, seed=3 * settings.seed + 999_999, sloppy_rate=0.25)
    tokenizer = train_tokenizer(tokenizer_rows, settings)
    model = build_model(tokenizer, settings)
    logger.info("%d parameters, %d tokens", model.num_parameters(), len(tokenizer))
    measured: dict[str, Any] = {"parameters": model.num_parameters(), "vocab_size": len(tokenizer)}
    if not settings.random_weights:
        clean, sloppy, held_out = make_rows(settings)
        clean_data, sloppy_data = encode_rows(tokenizer, clean), encode_rows(tokenizer, sloppy)
        measured["loss1"] = train_phase(model, clean_data, settings, name="clean", peak_lr=settings.lr1)
        measured["loss2"] = train_phase(model, sloppy_data, settings, name="sloppy", peak_lr=settings.lr2)
        measured["train_seconds"] = round(time.perf_counter() - started, 1)
        if held_out:
            measured |= evaluate(model, tokenizer, held_out, settings)
    measured["seconds"] = round(time.perf_counter() - started, 1)
    manifest = {"fingerprint": made_from, "settings": asdict(settings), "measured": measured}
    return write_directory(out, model, tokenizer, manifest)


def write_directory(
    out: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, manifest: dict[str, Any]
) -> dict[str, Any]:
    """Write model, tokenizer and manifest beside ``out``, then rename the directory into place."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    replaced = out.with_name(f".{out.name}.{os.getpid()}.old")
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
    manifest = {"files": files, **manifest}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        out.rename(replaced)
    temporary.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)
    return manifest


def parse_arguments(argv: Sequence[str] | None) -> tuple[Path, bool, Settings]:
    """Return the output directory, whether to ignore a cached model, and the settings."""
    default = Settings()
    parser = argparse.ArgumentParser(description="Make the tiny model for training runs on a CPU.")
    parser.add_argument("--out", type=Path, required=True, help="model directory to write")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps1", type=int, default=default.steps1, help="steps on clean solutions")
    parser.add_argument("--steps2", type=int, default=default.steps2, help="steps on solutions with sloppy steps")
    parser.add_argument("--eval-problems", type=int, default=default.eval_problems, help="0 skips the evaluation")
    parser.add_argument("--random-weights", action="store_true", help="skip the training (for quick tests)")
    parser.add_argument("--force", action="store_true", help="make the model even if a cached one fits")
    args = parser.parse_args(argv)
    for name in ("steps1", "steps2", "eval_problems"):
        if getattr(args, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must not be negative, got {getattr(args, name)}")
    settings = Settings(
        seed=args.seed,
        steps1=args.steps1,
        steps2=args.steps2,
        eval_problems=args.eval_problems,
        random_weights=args.random_weights,
    )
    return args.out.absolute(), args.force, settings


def main(argv: Sequence[str] | None = None) -> None:
    """Make the model unless a cached one fits; see ``--help``."""
    out, force, settings = parse_arguments(argv)
    manifest = None if force else cached_manifest(out, settings)
    if manifest:
        logger.info("kept the model in %s: made with the same settings and code", out)
    else:
        manifest = make_model(out, settings)
        logger.info("wrote the model to %s", out)
    for key, value in manifest["measured"].items():
        logger.info("%-24s %s", key, f"{value:.3f}" if isinstance(value, float) else value)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
