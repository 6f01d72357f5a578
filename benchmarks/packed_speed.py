# SPDX-License-Identifier: Apache-2.0
"""Compare packed training with verl's engine: time of the log-prob pass and of the update, and peak memory.

    python -m benchmarks.packed_speed --report FILE.md

The model is a Qwen2 with random weights. The rows are trees of random tokens from the search, and plain samples, which
share only their prompts. Both engines take turns with the same rows; the table has medians over the repetitions.
--tokens limits the tokens of verl's micro-batches and the unique tokens of the packed ones. Peak memory is measured in
a separate process for each engine; on a GPU it is device memory. All rows of a case have equal length, so verl's engine
computes no padding. With equal weights, both engines must also compute the same: the table has the largest difference
of a log-probability, and the distance of the gradients relative to the norm of verl's.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from math import log
from pathlib import Path
from typing import Any

from benchmarks.common import random_model
from benchmarks.common.records import write_measurement
from recipe.treepo.evaluation import markdown
from recipe.treepo.search import SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import Segment
from recipe.treepo.settings.schema import TreePOSettings

ENGINES = ("verl", "packed")
PASSES = ("log-probs", "update")
# (prompt tokens, trajectories, segments per path, tokens per segment, children of the root, whether paths branch)
CASES = {
    "tree, n 8": (64, 8, 7, 64, 1, True),
    "tree, n 16": (64, 16, 14, 32, 2, True),
    "plain samples, n 8": (64, 8, 7, 64, 8, False),
    "long tree, n 8": (64, 8, 7, 512, 1, True),
    "long prompt, tree, n 16": (2000, 16, 5, 64, 1, True),
    "long prompt, short turns, n 16": (2000, 16, 10, 16, 1, True),
    "long prompt, plain samples, n 16": (2000, 16, 1, 256, 16, False),
}
SHORT = [name for name in CASES if not name.startswith("long")]


class RandomTokens:
    """Engine that returns random tokens."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        self._seed, self._vocabulary = seed, vocabulary

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        rng = random.Random(f"{self._seed}/{branch}")
        return Segment([rng.randrange(self._vocabulary) for _ in range(max_tokens)], [-1.0] * max_tokens)


def responses(case: str, prompt: list[int], seed: int, vocabulary: int) -> list[list[int]]:
    """Return the responses of one prompt, in leaf order."""
    _, width, depth, segment, roots, is_tree = CASES[case]
    branching = BranchingRules(
        init_divergence=(roots, roots), divergence=(2, 2) if is_tree else (1, 1), max_divergence=2 if is_tree else 1
    )
    settings = TreePOSettings(depth=depth, segment_length=segment)
    stopping = settings.stopping_rules(
        eos_token_ids=frozenset(), response_length=depth * segment, decode=lambda tokens: "x" * len(tokens)
    )
    shape = SearchShape(width=width, segment_length=segment, branching=branching)
    engine = RandomTokens(seed, vocabulary)
    tree = asyncio.run(grow_tree(prompt, engine=engine, shape=shape, stopping=stopping, seed=seed))
    return [tree.path(leaf).response_ids for leaf in tree.leaves]


def make_rows(case: str, options: argparse.Namespace) -> list[tuple[list[int], list[int]]]:
    """Return prompt and response of each row."""
    rows, length = [], options.prompt_length or CASES[case][0]
    for seed in range(options.prompts):
        rng = random.Random(f"prompt {seed}")
        prompt = [rng.randrange(options.vocabulary) for _ in range(length)]
        rows += [(prompt, response) for response in responses(case, prompt, seed, options.vocabulary)]
    return rows


def make_data(rows: Sequence[tuple[list[int], list[int]]], options: argparse.Namespace) -> Any:
    """Return the rows in the form of verl's engine input."""
    import torch
    from verl.utils import tensordict_utils as tu

    def nested(lists: Sequence[list[Any]], dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in lists], layout=torch.jagged)

    tensors = {
        "input_ids": nested([prompt + response for prompt, response in rows]),
        "position_ids": nested([list(range(len(prompt) + len(response))) for prompt, response in rows]),
        "prompts": nested([prompt for prompt, _ in rows]),
        "responses": nested([response for _, response in rows]),
        "response_mask": nested([[1] * len(response) for _, response in rows]),
        "loss_mask": nested([[0] * len(prompt) + [1] * len(response) for prompt, response in rows]),
        # About those of random weights, so that PPO does not clip all gradients away.
        "old_log_probs": nested([[-log(options.vocabulary)] * len(response) for _, response in rows], torch.float32),
        "advantages": nested([[float(row % 2)] * len(rows[row][1]) for row in range(len(rows))], torch.float32),
    }
    numbers = {
        "temperature": 1.0,
        "global_batch_size": len(rows),
        "use_remove_padding": False,
        "use_dynamic_bsz": True,
        "max_token_len_per_gpu": options.tokens,
        "calculate_entropy": False,
    }
    return tu.get_tensordict(tensors, non_tensor_dict=numbers)


def build(name: str, options: argparse.Namespace) -> Any:
    """Return an engine with a model of random weights."""
    import torch
    from transformers import Qwen2ForCausalLM
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from recipe.treepo.verl_adapters.packed_engine import PackedActorEngine

    torch.manual_seed(0)
    shape = {"hidden": options.hidden, "layers": options.layers, "vocabulary": options.vocabulary}
    with tempfile.TemporaryDirectory() as folder:
        Qwen2ForCausalLM(random_model.config(**shape)).save_pretrained(folder)
        precision = {"param_dtype": options.dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
        engine = {"verl": FSDPEngineWithLMHead, "packed": PackedActorEngine}[name](
            model_config=HFModelConfig(
                path=folder,
                load_tokenizer=False,
                override_config={"attn_implementation": options.attention if name == "packed" else "sdpa"},
                use_remove_padding=False,
                enable_gradient_checkpointing=options.checkpointing,
            ),
            engine_config=FSDPEngineConfig(
                strategy="fsdp2", model_dtype="fp32", use_torch_compile=False, mixed_precision=precision
            ),
            optimizer_config=FSDPOptimizerConfig(lr=1e-6, total_training_steps=1000),
            checkpoint_config=None,
        )
        engine._build_model_optimizer()
    return engine


def seconds_of(engine: Any, name: str, data: Any) -> float:
    """Return the seconds of one pass over the data."""
    from verl.utils.device import get_torch_device

    data, started = data.clone(), time.perf_counter()
    if name == "log-probs":
        with engine.eval_mode():
            engine.infer_batch(data)
    else:
        with engine.train_mode():
            engine.train_batch(data, loss_function())
    get_torch_device().synchronize()
    return time.perf_counter() - started


def loss_function() -> Any:
    """Return verl's PPO loss for one process."""
    from verl.workers.config import FSDPActorConfig
    from verl.workers.utils.losses import ppo_loss

    return partial(ppo_loss, FSDPActorConfig(strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1))


def differences(engines: dict[str, Any], data: Any) -> list[float]:
    """Return the largest difference of a log-probability, and the relative distance of the gradients."""
    import torch

    log_probs, gradients = [], []
    for name in ENGINES:
        engine = engines[name]
        with engine.eval_mode():
            found = engine.infer_batch(data.clone())["model_output"]["log_probs"].unbind()
        # verl stores the values of response tokens one token early.
        rows = zip(found, data["responses"].unbind(), strict=True)
        log_probs.append(torch.cat([row[-len(response) - 1 : -1].float() for row, response in rows]))
        with engine.train_mode():
            engine.optimizer_zero_grad()
            engine.forward_backward_batch(data.clone(), loss_function())
            grads = [parameter.grad for parameter in engine.module.parameters()]
            whole = [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads if grad is not None]
            gradients.append(torch.cat([grad.flatten().float() for grad in whole]))
            engine.optimizer_zero_grad()
    theirs, ours = gradients
    return [
        float((log_probs[1] - log_probs[0]).abs().max()),
        float((ours - theirs).norm() / theirs.norm()),
    ]


def start_group(folder: str) -> None:
    """Start a process group with this process alone, which verl's engines need."""
    from verl.utils.distributed import initialize_global_process_group_ray

    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
    os.environ["DIST_INIT_METHOD"] = f"file://{folder}/store"
    initialize_global_process_group_ray()


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return token counts of one case and median seconds of both engines."""
    import numpy as np

    from recipe.treepo.packed.prefix_tree import pack  # numpy only

    rows = make_rows(case, options)
    sequences = [np.array(prompt + response) for prompt, response in rows]
    total, unique = sum(map(len, sequences)), len(pack(sequences).token_U)
    result: dict[str, Any] = {"case": case, "total_tokens": total, "unique_tokens": unique}
    with tempfile.TemporaryDirectory() as folder:
        start_group(folder)
        engines, data = {name: build(name, options) for name in ENGINES}, make_data(rows, options)
        result["parameters"] = sum(parameter.numel() for parameter in engines["verl"].module.parameters())
        result["differences"] = differences(engines, data)
        for passed in PASSES:
            seconds: dict[str, list[float]] = {name: [] for name in ENGINES}
            for repetition in range(options.repetitions + 1):
                for name in ENGINES:
                    took = seconds_of(engines[name], passed, data)
                    if repetition:  # the first repetition is a warm-up
                        seconds[name].append(took)
                print(f"{case}, {passed}: {repetition}/{options.repetitions}", file=sys.stderr, flush=True)
            result[passed] = {name: statistics.median(values) for name, values in seconds.items()}
    return result


def peak_memory(case: str, name: str, options: argparse.Namespace) -> float:
    """Return the peak memory of one update in GiB, of this process or, on a GPU, of the device."""
    from verl.utils.device import get_torch_device

    with tempfile.TemporaryDirectory() as folder:
        start_group(folder)
        engine, data = build(name, options), make_data(make_rows(case, options), options)
        seconds_of(engine, "update", data)
    return float(get_torch_device().max_memory_allocated() / 1024**3)


def in_own_process(arguments: Sequence[str], job: str) -> Any:
    """Run one job of this script in a new process; return the JSON of its last line."""
    command = [sys.executable, "-m", "benchmarks.packed_speed", *arguments, "--job", job]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results in Markdown."""
    titles = ["rows", "tokens", "unique", "tokens / unique"]
    titles += [f"{name}: verl / packed" for name in PASSES] + ["share of tokens / unique", "peak memory verl", "packed"]
    titles += ["log-prob difference", "gradient difference"]
    rows = []
    for result in results:
        allowed = result["total_tokens"] / result["unique_tokens"]
        speedups = [result[name]["verl"] / result[name]["packed"] for name in PASSES]
        cells = [result["case"], f"{result['total_tokens']:,}", f"{result['unique_tokens']:,}", f"{allowed:.2f}"]
        cells += [f"{speedup:.2f}" for speedup in speedups]
        cells += [", ".join(f"{speedup / allowed:.2f}" for speedup in speedups)]
        cells += [f"{result['memory'][name]:.2f} GiB" for name in ENGINES]
        cells += [f"{found:.1e}" for found in result["differences"]]
        rows.append(cells)
    return markdown.table(titles, rows)


def agree(results: Sequence[dict[str, Any]], limit: float) -> bool:
    """Return whether all differences are at most the limit; NaN is not."""
    return all(found <= limit for result in results for found in result["differences"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all cases, each in a new process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=SHORT)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--prompt-length", type=int, help="tokens of a prompt, instead of the case's own")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens per micro-batch; packed: unique tokens")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=640)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--vocabulary", type=int, default=16000)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="precision of the model")
    parser.add_argument("--attention", choices=("sdpa", "flex_attention"), default="sdpa", help="of the packed engine")
    parser.add_argument("--limit", type=float, help="end with status 1 if a difference is larger")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--report", type=Path, help="Markdown file, written after each case; results (.json) beside it")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(arguments)
    if options.job:
        case, _, engine = options.job.partition("/")
        print(json.dumps(peak_memory(case, engine, options) if engine else measure(case, options)))
        return
    results = []
    for case in options.cases:
        result = in_own_process(arguments, case)
        result["memory"] = {name: in_own_process(arguments, f"{case}/{name}") for name in ENGINES}
        results.append(result)
        print(table(results), flush=True)
        if options.report:
            import torch  # noqa: F401  machine() names its GPUs

            about, cases = f"{results[0]['parameters'] / 1e6:.0f} M parameters, {options.dtype}", {"cases": results}
            write_measurement(
                options.report, "packed_speed", arguments, about=about, table=table(results), results=cases
            )
    if options.limit is not None and not agree(results, options.limit):
        sys.exit(f"error: the engines differ by more than {options.limit}")


if __name__ == "__main__":
    main()
