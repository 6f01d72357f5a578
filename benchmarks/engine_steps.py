# SPDX-License-Identifier: Apache-2.0
"""Fit the time of an engine step, a fixed part and one per sequence, with vLLM alone.

    python -m benchmarks.engine_steps --model MODEL --report FILE.md

All sequences have equal length, so a step decodes one token of each. Their prompts are in the prefix cache before the
measurement. The numbers of sequences take turns; times are medians over the rounds.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.fit import unit_costs
from benchmarks.common.records import write_measurement
from recipe.treepo.evaluation.markdown import table

PROMPT = 64
"""Tokens of a prompt."""


def fit(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Return the fixed seconds of a step and those per sequence, by least squares of relative errors.

    Args:
        seconds: Seconds of a step by its number of sequences.
    """
    step, sequence = unit_costs([(1, count) for count in seconds], [*seconds.values()])
    return step, sequence


def measure(options: argparse.Namespace) -> dict[int, list[float]]:
    """Return the seconds of a step in each round, by the number of sequences."""
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(
        model=options.model,
        dtype=options.dtype,
        max_model_len=PROMPT + options.length,
        max_num_seqs=max(options.sequences),
        enforce_eager=True,
        enable_prefix_caching=True,
        block_size=options.block_size,
        disable_log_stats=True,
    )
    rng, most = random.Random(0), engine.model_config.get_vocab_size()
    found: dict[int, list[float]] = {count: [] for count in options.sequences}

    def generate(prompts: Sequence[Any], length: int) -> float:
        params = SamplingParams(max_tokens=length, ignore_eos=True, detokenize=False, logprobs=0)
        started = time.perf_counter()
        engine.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started

    for turn in range(options.rounds + 1):
        for count in options.sequences:
            prompts = [
                TokensPrompt(prompt_token_ids=[rng.randrange(most) for _ in range(PROMPT)]) for _ in range(count)
            ]
            generate(prompts, 1)
            took = generate(prompts, options.length)
            if turn:  # the first is a warm-up
                found[count].append(took / options.length)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub name of a model")
    parser.add_argument("--sequences", type=int, nargs="+", default=[4, 16, 64, 128, 256])
    parser.add_argument("--length", type=int, default=100, help="tokens of a response")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--block-size", type=int, default=32, help="tokens per cache block; at least 32 on a CPU")
    parser.add_argument("--report", type=Path, help="Markdown file; results (.json) beside it")
    options = parser.parse_args(arguments)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    found = measure(options)
    seconds = {count: statistics.median(times) for count, times in found.items()}
    step, sequence = fit(seconds)
    rows = [
        [f"{count}", f"{1000 * took:.1f} ms", f"{1000 * (step + sequence * count):.1f} ms"]
        for count, took in seconds.items()
    ]
    about = f"a step: {1000 * step:.2f} ms and {1000 * sequence:.3f} ms per sequence"
    page = table(["sequences", "measured", "fit"], rows)
    print(f"{about}\n\n{page}")
    if options.report:
        about = f"medians of {options.rounds} rounds; {about}"
        numbers = {"step": step, "sequence": sequence, "seconds of rounds": found}
        write_measurement(options.report, "engine_steps", arguments, about=about, table=page, results=numbers)


if __name__ == "__main__":
    main()
