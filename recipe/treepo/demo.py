# SPDX-License-Identifier: Apache-2.0
"""``python -m recipe.treepo.demo``: grow one tree, score it, print it, and write its page. No GPU, verl or server.

By default the embedded tiny model solves a problem of its own kind. Other models of transformers work, if all their
layers attend to the whole context.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.treepo.command_line.program import as_called

if TYPE_CHECKING:
    from recipe.treepo.search.tree import Tree

MODEL = Path(__file__).parents[2] / "tiny/model"
PROBLEM = (
    "Mia has 4 boxes with 6 shells each. She sells 5 of them. She finds 3 more. How many shells does Mia have now?"
)
ANSWER = "22"
DESCRIPTION = """\
Grow one tree with a model, score its trajectories, print it, and write its page for a browser.
--problem and --answer go together; --model is a folder or a name on the hub."""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=as_called("python -m recipe.treepo.demo"),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", default=str(MODEL), help="default: the embedded tiny model, in a checkout")
    parser.add_argument("--problem", help="a problem whose answer the reward can compare; default: an embedded one")
    parser.add_argument("--answer", help="its right answer")
    parser.add_argument("--n", type=int, default=8, help="trajectories")
    parser.add_argument("--depth", type=int, default=4, help="maximum segments of a path")
    parser.add_argument("--segment", type=int, default=32, help="tokens of a segment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder of the dump and the page")
    chosen = parser.parse_args(words)
    for name in ("n", "depth", "segment"):
        if getattr(chosen, name) < 1:
            parser.error(
                f"--{name}={getattr(chosen, name)}: must be at least 1. Use --{name}={parser.get_default(name)}."
            )
    if (chosen.problem is None) != (chosen.answer is None):
        parser.error("--problem and --answer go together: give both, or neither.")
    if chosen.problem is None:
        chosen.problem, chosen.answer = PROBLEM, ANSWER
    return chosen


def main(words: Sequence[str] | None = None) -> int:
    """Run the demo; return its exit status."""
    chosen, started = arguments(sys.argv[1:] if words is None else words), time.perf_counter()
    from rich.console import Console

    from recipe.treepo.dumps.reader import Dump
    from recipe.treepo.viewer.export import export
    from recipe.treepo.viewer.selection import select
    from recipe.treepo.viewer.terminal import print_tree

    try:
        model, tokenizer = load(chosen.model)
    except (OSError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        print(f"error: --model={chosen.model}: cannot be loaded ({first}). Name another model.", file=sys.stderr)
        return 1
    tree, decode = asyncio.run(grow(chosen, model, tokenizer))
    rewards = [score(tree.path(leaf).text, chosen.answer) for leaf in tree.leaves]
    uid = write(chosen, tree, rewards, decode)
    dump = Dump(chosen.out)
    dump.refresh()
    entries = select(dump, uid=uid)
    print_tree(dump.load(entries[0]), Console())
    page = chosen.out / "tree.html"
    export(dump, entries, page)
    counters, total = tree.counters, sum(tree.nodes[leaf].end for leaf in tree.leaves)
    print(f"{sum(reward['acc'] for reward in rewards):g} of {len(rewards)} trajectories are right.")
    print(f"{counters.decoded_tokens} tokens sampled for trajectories of {total}, in {counters.engine_calls} requests.")
    print(f"page: {page} ({time.perf_counter() - started:.0f} s)")
    return 0


def load(name: str) -> tuple[Any, Any]:
    """Return a model in evaluation mode, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)


async def grow(chosen: argparse.Namespace, model: Any, tokenizer: Any) -> "tuple[Tree, Any]":
    """Return the tree, and the function from token ids to text that keeps special tokens."""
    from recipe.treepo.engines.transformers_engine import TransformersEngine
    from recipe.treepo.search import grow_tree
    from recipe.treepo.settings.schema import TreePOSettings

    ends = model.generation_config.eos_token_id
    stops = frozenset([ends] if isinstance(ends, int) else ends or [tokenizer.eos_token_id])
    messages = [{"role": "user", "content": chosen.problem}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    settings = TreePOSettings(depth=chosen.depth, segment_length=chosen.segment, cache_block=None)
    length = chosen.depth * chosen.segment
    tree = await grow_tree(
        prompt,
        engine=TransformersEngine(model, stop_token_ids=sorted(stops), seed=chosen.seed),
        shape=settings.shape(width=chosen.n, response_length=length, progress=0.0),
        stopping=settings.stopping_rules(
            eos_token_ids=stops, response_length=length, decode=partial(tokenizer.decode, skip_special_tokens=True)
        ),
        seed=chosen.seed,
    )
    return tree, tokenizer.decode


def score(response: str, answer: str) -> dict[str, Any]:
    """Return the recipe's score of a response."""
    from recipe.treepo.reward import compute_score

    return compute_score("demo", response, answer)


def write(chosen: argparse.Namespace, tree: "Tree", rewards: list[dict[str, Any]], decode: Any) -> str:
    """Write the tree and the credit of its trajectories into the folder; return the id of the prompt."""
    import numpy as np

    from recipe.treepo.advantages.credit import segment_credit
    from recipe.treepo.advantages.forest import build_forest
    from recipe.treepo.advantages.options import AdvantageOptions
    from recipe.treepo.dumps.lines import TreeOrigin, credit_line, tree_line
    from recipe.treepo.dumps.writer import DumpWriter

    uid = f"demo-{time.time_ns():x}"
    settings = {name: getattr(chosen, name) for name in ("n", "depth", "segment", "seed", "model")}
    origin = TreeOrigin(
        uid=uid,
        step=0,
        split="demo",
        number=0,
        data_source="demo",
        row=None,
        prompt=decode(tree.prompt_ids),
        ground_truth=chosen.answer,
        settings=settings,
    )
    parts = [{"reward": reward["score"], **reward} for reward in rewards]
    writer = DumpWriter(chosen.out, "demo")
    writer.append(origin.folder, *tree_line(tree, origin, parts, decode))
    paths = [tree.path(leaf).spans for leaf in tree.leaves]
    forest = build_forest([uid] * len(paths), paths)
    values = segment_credit(forest, np.array([part["reward"] for part in parts]), AdvantageOptions())
    for row, (leaf, path, part) in enumerate(zip(tree.leaves, paths, parts, strict=True)):
        credit = values[forest.trajectory_P[row], 1 : 1 + len(path)]
        advantages = [(node, float(value)) for (node, _), value in zip(path, credit, strict=True)]
        writer.append(origin.folder, *credit_line(uid, leaf, part, advantages))
    return uid


if __name__ == "__main__":
    sys.exit(main())
