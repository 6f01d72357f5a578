# SPDX-License-Identifier: Apache-2.0
"""Count engine calls and tokens per prompt: plain samples, loops over segments, and trees.

    python -m benchmarks.engine_calls --model MODEL --data PROMPTS.parquet

One vLLM engine runs in this process, without verl. Samplers for each depth:

- n independent loops that stop at every segment boundary ("original implementation" in ms-swift's TreePO table);
- n plain samples of one request each;
- for each divergence, trees that stop at every boundary;
- for each divergence, trees whose requests run over boundaries without a possible branch.

All have the same prompts, model, engine and lengths. The prefix cache is emptied before each measurement.
"""

import argparse
import asyncio
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from benchmarks.common.vllm_engine import VllmEngine, start_engine
from recipe.treepo.evaluation.markdown import table
from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import StoppingRules
from recipe.treepo.settings.schema import TreePOSettings

COUNTS = ("engine_calls", "decoded_tokens", "overrun_tokens", "computed_prompt_tokens")
TITLES = ("depth", "sampler", "calls per prompt", "saved", "decoded", "overrun", "prompt computed", "computed in all")


def shapes(width: int, segment: int, divergences: list[int]) -> list[tuple[str, SearchShape]]:
    """Return name and shape of each sampler for one depth, loops first."""
    loops = SearchShape(
        width=width,
        segment_length=segment,
        max_segments_per_request=1,
        branching=BranchingRules(init_divergence=(width, width)),
    )
    samplers = [("independent loops", loops), ("plain samples", replace(loops, max_segments_per_request=None))]
    for most in divergences:
        rules = BranchingRules(divergence=(most, most), init_divergence=(1, 1), max_divergence=most)
        samplers.append((f"tree, divergence {most}, every boundary", replace(loops, branching=rules)))
        samplers.append((f"tree, divergence {most}", replace(loops, branching=rules, max_segments_per_request=None)))
    return samplers


async def count(engine: Any, prompts: list[list[int]], shape: SearchShape, stopping: StoppingRules) -> dict[str, float]:
    """Return the counts of one sampler, summed over all prompts."""
    await engine.reset_prefix_cache()
    adapter = VllmEngine(engine, sorted(stopping.eos_token_ids))
    trees = await asyncio.gather(
        *(
            grow_tree(prompt, engine=adapter, shape=shape, stopping=stopping, seed=number)
            for number, prompt in enumerate(prompts)
        )
    )
    assert all(len(tree.leaves) == shape.width for tree in trees)
    total = TreeStatistics.total(map(TreeStatistics.of, trees))
    return {name: getattr(total, name) for name in COUNTS}


async def measure(options: argparse.Namespace) -> str:
    """Return the table in Markdown."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    ends = GenerationConfig.from_pretrained(options.model).eos_token_id
    rows = pd.read_parquet(options.data)["prompt"].head(options.prompts)
    prompts = [
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
        for messages in rows
    ]
    engine = start_engine(
        options.model,
        max_model_len=max(map(len, prompts)) + options.response_length,
        dtype=options.dtype,
        block_size=options.block_size,
    )
    lines = []
    try:
        for depth in options.depths:
            segment = TreePOSettings(depth=depth).resolved_segment_length(options.response_length)
            stopping = TreePOSettings(depth=depth).stopping_rules(
                eos_token_ids=frozenset([ends] if isinstance(ends, int) else ends),
                response_length=options.response_length,
                decode=partial(tokenizer.decode, skip_special_tokens=True),
            )
            loops = None
            for name, shape in shapes(options.n, segment, options.divergences):
                sums = await count(engine, prompts, shape, stopping)
                loops = loops or sums
                saved = 1 - sums["engine_calls"] / loops["engine_calls"]
                computed = sums["decoded_tokens"] + sums["computed_prompt_tokens"]
                tokens = (sums["decoded_tokens"], sums["overrun_tokens"], sums["computed_prompt_tokens"], computed)
                calls = sums["engine_calls"] / len(prompts)
                lines.append(
                    (f"{depth} x {segment}", name, f"{calls:.1f}", f"{saved:.1%}", *(f"{n:,}" for n in tokens))
                )
                print(f"{depth} x {segment}, {name}: {calls:.1f} calls per prompt", file=sys.stderr, flush=True)
    finally:
        engine.shutdown()
    about = f"{len(prompts)} prompts, n = {options.n}, responses of up to {options.response_length} tokens"
    return f"{about}\n\n{table(TITLES, lines)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub name of a model")
    parser.add_argument("--data", required=True, help="parquet file with prompts in verl's schema")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--response-length", type=int, default=128)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--divergences", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--block-size", type=int, default=32, help="tokens per cache block; at least 32 on a CPU")
    print(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
