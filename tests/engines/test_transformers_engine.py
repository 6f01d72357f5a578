# SPDX-License-Identifier: Apache-2.0
"""The engine on a model of transformers, with a small model of random weights."""

import asyncio
import math
from collections import Counter

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from recipe.treepo.engines.transformers_engine import TransformersEngine
from recipe.treepo.search import SearchError, grow_tree
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import TreePOSettings

VOCABULARY, END, PROMPT, LENGTH = 40, 0, [5, 6, 7, 8, 9], 12


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=VOCABULARY, num_key_value_heads=2, initializer_range=0.3, **sizes)
    return Qwen2ForCausalLM(config).eval()


async def grown(engine: TransformersEngine, seed: int, prompt: list[int] = PROMPT) -> Tree:
    settings = TreePOSettings(depth=3, segment_length=4, retries=0, cache_block=None)
    ends = {"eos_token_ids": frozenset({END}), "response_length": LENGTH, "decode": lambda ids: " ".join(map(str, ids))}
    shape = settings.shape(width=6, response_length=LENGTH, progress=0.0)
    return await grow_tree(prompt, engine=engine, shape=shape, stopping=settings.stopping_rules(**ends), seed=seed)


def record(tree: Tree) -> list[tuple]:
    return [(node.key, node.parent, list(node.segment.token_ids), node.finish_reason) for node in tree.nodes]


def logprobs_by_one_pass(model: Qwen2ForCausalLM, tree: Tree, leaf: int, temperature: float) -> list[float]:
    response = tree.path(leaf).response_ids
    with torch.inference_mode():
        logits = model(torch.tensor([tree.prompt_ids + response])).logits[0, len(tree.prompt_ids) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return [logprobs[place, token].item() for place, token in enumerate(response)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_equal_those_of_a_pass_over_the_whole_path(model, temperature):
    engine = TransformersEngine(model, stop_token_ids=[END], temperature=temperature, max_batch=4)
    prompts = [PROMPT, PROMPT[:2], [9, 8, *PROMPT, 11]]

    async def all_trees() -> list[Tree]:
        return await asyncio.gather(*(grown(engine, seed, prompt) for seed, prompt in enumerate(prompts)))

    for tree in asyncio.run(all_trees()):
        tree.check()
        assert len(tree.leaves) == 6
        for leaf in tree.leaves:
            expected = logprobs_by_one_pass(model, tree, leaf, temperature)
            assert tree.path(leaf).logprobs == pytest.approx(expected, abs=1e-4)


def test_kept_prefixes_save_tokens_and_change_nothing(model):
    kept, none = (TransformersEngine(model, stop_token_ids=[END], max_cached_tokens=most) for most in (65_536, 0))
    first, second = (asyncio.run(grown(engine, 3)) for engine in (kept, none))
    assert record(first) == record(second)
    asked = sum(len(PROMPT) + first.nodes[node.parent].end for node in first.nodes[1:] if "@" not in node.key)
    counters = first.counters
    assert counters.computed_prompt_tokens == kept.computed_tokens < none.computed_tokens
    assert counters.computed_prompt_tokens + counters.cached_prompt_tokens == none.computed_tokens <= asked
    assert second.counters.cached_prompt_tokens == 0
    # The requests of a level are one batch.
    assert kept.batches < counters.engine_calls


def test_a_branch_inside_kept_tokens_uses_those_before_it(model):
    engine = TransformersEngine(model, stop_token_ids=[])

    async def branched() -> tuple[list[int], list[float]]:
        first = await engine.extend(PROMPT, max_tokens=9, branch="0")
        prefix = [*PROMPT, *first.token_ids[:4]]
        second = await engine.extend(prefix, max_tokens=3, branch="1")
        assert second.cached_tokens == len(prefix) - 1
        return [*prefix, *second.token_ids], list(second.logprobs)

    token_ids, logprobs = asyncio.run(branched())
    with torch.inference_mode():
        passed = torch.log_softmax(model(torch.tensor([token_ids])).logits[0], dim=-1)
    expected = [passed[place - 1, token_ids[place]].item() for place in range(len(token_ids) - 3, len(token_ids))]
    assert logprobs == pytest.approx(expected, abs=1e-4)


def test_the_seed_decides_the_tree(model):
    trees = [asyncio.run(grown(TransformersEngine(model, stop_token_ids=[END], seed=seed), 3)) for seed in (1, 1, 2)]
    assert record(trees[0]) == record(trees[1]) != record(trees[2])


def test_tokens_are_drawn_from_the_models_distribution(model):
    engine = TransformersEngine(model, stop_token_ids=[END])

    async def first_tokens() -> Counter:
        requests = (engine.extend(PROMPT, max_tokens=1, branch=str(number)) for number in range(4000))
        found = await asyncio.gather(*requests)
        return Counter(segment.token_ids[0] for segment in found)

    drawn = asyncio.run(first_tokens())
    with torch.inference_mode():
        probabilities = torch.softmax(model(torch.tensor([PROMPT])).logits[0, -1], dim=-1).tolist()
    for token, probability in enumerate(probabilities):
        deviation = math.sqrt(4000 * probability * (1 - probability))
        assert abs(drawn[token] - 4000 * probability) < 5 * deviation + 3


def test_an_error_of_the_model_fails_the_requests_of_its_batch_only(model):
    engine = TransformersEngine(model, stop_token_ids=[END])
    with pytest.raises(SearchError):
        asyncio.run(grown(engine, 0, [VOCABULARY + 1]))
    assert len(asyncio.run(grown(engine, 0)).leaves) == 6


def test_a_model_with_windows_is_refused():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    windows = MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=2, sliding_window=4, **sizes)
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    mixed = Qwen2Config(vocab_size=VOCABULARY, num_key_value_heads=2, **window, **sizes)
    for model in (MistralForCausalLM(windows), Qwen2ForCausalLM(mixed)):
        with pytest.raises(ValueError, match=f"^{type(model).__name__}: must attend to the whole context"):
            TransformersEngine(model, stop_token_ids=[END])


def test_an_engine_goes_on_after_a_loop_that_ended_early(model):
    engine = TransformersEngine(model, stop_token_ids=[])

    async def ends_at_once() -> None:
        asyncio.create_task(engine.extend(PROMPT, max_tokens=4, branch="0"))
        await asyncio.sleep(0)

    asyncio.run(ends_at_once())
    segment = asyncio.run(asyncio.wait_for(engine.extend(PROMPT, max_tokens=4, branch="1"), 60))
    assert len(segment.token_ids) == 4


def test_a_cancelled_request_does_not_hold_up_the_others(model):
    engine = TransformersEngine(model, stop_token_ids=[END])

    async def run() -> int:
        cancelled = asyncio.create_task(engine.extend(PROMPT, max_tokens=4, branch="0"))
        other = asyncio.create_task(engine.extend(PROMPT, max_tokens=4, branch="1"))
        await asyncio.sleep(0)
        cancelled.cancel()
        segment = await asyncio.wait_for(other, 60)
        return len(segment.token_ids)

    assert 1 <= asyncio.run(run()) <= 4
