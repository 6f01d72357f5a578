# SPDX-License-Identifier: Apache-2.0
"""Supervised training of the tiny models, from the tokenizer to the model directory."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

logger = logging.getLogger(__name__)
Settings = TypeVar("Settings", bound="ModelSettings")

MANIFEST = "tiny_model_manifest.json"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IGNORED = -100
"""Label of tokens without a loss: prompt and padding."""

# Qwen2's split of text into words before the merges; \p{N} stands alone, so every digit is a token.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Trained = tuple[list[int], list[bool]]
"""Tokens of a sequence, and a flag for each: True if it is trained."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Common settings that determine the weights of a tiny model; recipes add fields."""

    steps1: int
    """Optimizer steps of the clean phase."""
    steps2: int
    """Optimizer steps of the sloppy phase."""
    eval_problems: int
    """Held-out problems sampled at the end; 0 skips the evaluation."""
    lr1: float = 3e-3
    """Highest learning rate of the clean phase."""
    lr2: float = 1e-3
    """Highest learning rate of the sloppy phase."""
    seed: int = 0
    warmup: int = 40
    """Number of steps of rising learning rate at the start of each phase."""
    batch_size: int = 16
    vocab_size: int = 500
    """Maximum number of tokens of the tokenizer, special ones included."""
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    max_position_embeddings: int = 2048
    initializer_range: float = 0.06
    """Standard deviation of the random weights. 0.02, the default for large models, learns several times slower."""


def train_tokenizer(
    texts: Iterable[str], settings: ModelSettings, *, chat_template: str, added: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer on ``texts``, which can encode any text.

    Args:
        texts: training texts.
        settings: size of the vocabulary and of the context.
        chat_template: chat template in Jinja.
        added: further tokens that are not special, so decoding keeps them.
    """
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
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens(list(added))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START, TURN_END],
        model_max_length=settings.max_position_embeddings,
        padding_side="left",
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerBase, settings: ModelSettings) -> Qwen2ForCausalLM:
    """Make a Qwen2 model with random weights and exactly the tokenizer's vocabulary."""
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
    # Two end tokens, as in Qwen2.5-Instruct, to expose code that handles only one.
    model.generation_config = GenerationConfig(
        do_sample=True,
        bos_token_id=end_of_text,
        pad_token_id=end_of_text,
        eos_token_id=[turn_end, end_of_text],
    )
    return model


def encode_chats(tokenizer: PreTrainedTokenizerBase, chats: Sequence[dict[str, Any]]) -> list[Trained]:
    """Return tokens and trained flags of conversations that end in an assistant turn.

    Each chat has ``messages`` and may have ``tools``. Assistant turns are trained, with their end tokens. The newline
    after the last end token is removed, because it is not trained.
    """
    if not chats:
        return []
    texts = [
        tokenizer.apply_chat_template(chat["messages"], tools=chat.get("tools"), tokenize=False).removesuffix("\n")
        for chat in chats
    ]
    header = tokenizer(f"{TURN_START}assistant\n", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    tokens_T = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [(tokens, _assistant_turns(tokens, header, end)) for tokens in tokens_T]


def _assistant_turns(tokens: list[int], header: list[int], end: int) -> list[bool]:
    """Mark the tokens after each header, up to and including the next end token."""
    trained, inside = [], False
    for at, token in enumerate(tokens):
        inside = inside or (at >= len(header) and tokens[at - len(header) : at] == header)
        trained.append(inside)
        inside = inside and token != end
    return trained


def batches(
    sequences: Sequence[Trained], batch_size: int, pad: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (input ids, labels), each (batch_size, longest in the batch), padded on the right.

    A batch has sequences of similar length, to save padding; batches come in random order. Labels are shifted:
    ``labels[:, t]`` is the token after ``ids[:, t]``, or ``IGNORED``.
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
            tokens, trained = sequences[index]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            shifted = [token if counts else IGNORED for token, counts in zip(tokens, trained, strict=True)][1:]
            labels[row, : len(shifted)] = torch.tensor(shifted)
        yield ids, labels


def response_loss(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over the trained tokens, with logits for those only.

    No attention mask is necessary, because padding on the right has no effect under causal attention.
    """
    import torch

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    trained = labels != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[trained]), labels[trained])


def train_phase(
    model: Qwen2ForCausalLM, data: Sequence[Trained], settings: ModelSettings, *, name: str, peak_lr: float
) -> float:
    """Train one pass over ``data``, with warm-up and cosine decay to a tenth; return the mean of the last 20 losses."""
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


def checksums(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model directory except the manifest, which stores them."""
    files = sorted(path for path in directory.iterdir() if path.name != MANIFEST)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_directory(
    out: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, manifest: dict[str, Any]
) -> None:
    """Write model, tokenizer and manifest to a temporary directory, then rename it to ``out``."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    replaced = out.with_name(f".{out.name}.{os.getpid()}.old")
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    manifest = {**manifest, "sha256": checksums(temporary)}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        out.rename(replaced)
    temporary.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def start_clock() -> float:
    """Set torch to OMP_NUM_THREADS threads (default: all cores) before its first use; return the current time."""
    # OpenMP reads this when torch loads it. Threads that spin at barriers cost a factor of ten and more once another
    # process needs a core; threads that sleep cost next to nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[Settings]):
    """Differences between the models."""

    settings: Settings
    """Settings of the shipped weights."""
    make_tokenizer: Callable[[Settings], PreTrainedTokenizerBase]
    make_data: Callable[[Settings], tuple[list[Any], list[Any], list[Any]]]
    """Function that returns clean chats, sloppy chats and held-out problems for ``evaluate``."""
    evaluate: Callable[[Qwen2ForCausalLM, PreTrainedTokenizerBase, list[Any], Settings], dict[str, float]]
    make_recall: Callable[[Settings], Sequence[list[Any]]] = lambda settings: ()
    """Function that returns the chats of each phase before the clean one; their rate is ``lr2``."""

    def run(self, out: Path, settings: Settings, command: str) -> dict[str, Any]:
        """Train the model and write it to ``out``, with ``command`` in the manifest; return the measurements."""
        started = start_clock()
        tokenizer = self.make_tokenizer(settings)
        model = build_model(tokenizer, settings)
        logger.info("%d parameters, %d tokens", model.num_parameters(), len(tokenizer))
        measured: dict[str, Any] = {"parameters": model.num_parameters(), "vocab_size": len(tokenizer)}
        clean, sloppy, held_out = self.make_data(settings)
        for number, chats in enumerate(self.make_recall(settings)):
            recall = encode_chats(tokenizer, chats)
            measured[f"loss_recall{number}"] = train_phase(
                model, recall, settings, name=f"recall {number}", peak_lr=settings.lr2
            )
        clean_data, sloppy_data = encode_chats(tokenizer, clean), encode_chats(tokenizer, sloppy)
        measured["loss1"] = train_phase(model, clean_data, settings, name="clean", peak_lr=settings.lr1)
        measured["loss2"] = train_phase(model, sloppy_data, settings, name="sloppy", peak_lr=settings.lr2)
        if held_out:
            import torch

            torch.manual_seed(settings.seed)
            model.eval()
            measured |= self.evaluate(model, tokenizer, held_out, settings)
        measured["seconds"] = round(time.perf_counter() - started, 1)
        versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
        manifest = {"command": command, "versions": versions, "settings": asdict(settings), "measured": measured}
        write_directory(out, model, tokenizer, manifest)
        return measured
