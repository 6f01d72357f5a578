# SPDX-License-Identifier: Apache-2.0
"""Block size of the engine's prefix cache, and the remark on a cache without a hit."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from recipe.treepo.search.engine import Segment
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.tree import Tree
from recipe.treepo.verl_adapters.prefix_cache import (
    ENOUGH_CALLS,
    MissingPrefixes,
    PrefixCache,
    prefix_cache_of,
    usable_block,
)


class Client:
    """verl's client with one server, whose front end has a vLLM configuration."""

    def __init__(self, **cache) -> None:
        config = SimpleNamespace(cache_config=SimpleNamespace(**cache)) if cache else None
        self.server = SimpleNamespace(__ray_call__=SimpleNamespace(remote=self._call))
        self.actor = SimpleNamespace(engine=config and SimpleNamespace(vllm_config=config))
        self.acquired, self.released = [], []

    async def _call(self, function):
        return function(self.actor)

    async def _acquire_server(self, request_id):
        self.acquired.append(request_id)
        return "address", self.server

    def _release_server(self, server_id, request_id=None):
        self.released.append((server_id, request_id))


@pytest.mark.parametrize(
    ("cache", "found", "block"),
    [
        ({"enable_prefix_caching": True, "block_size": 16, "mamba_block_size": None}, (True, 16), 16),
        # attention blocks of 272 tokens, states every 544
        ({"enable_prefix_caching": True, "block_size": 272, "mamba_block_size": 544}, (True, 544), 544),
        ({"enable_prefix_caching": False, "block_size": 32, "mamba_block_size": None}, (False, 32), None),
    ],
)
def test_the_block_size_is_that_of_the_engine(cache, found, block):
    client = Client(**cache)
    answer = asyncio.run(prefix_cache_of(client, "vllm"))
    assert answer == PrefixCache(*found)
    assert usable_block(answer) == block
    assert [("address", name) for name in client.acquired] == client.released


def test_other_engines_and_nodes_without_a_front_end_have_no_answer():
    assert asyncio.run(prefix_cache_of(Client(), "sglang")) is None
    assert asyncio.run(prefix_cache_of(Client(), "vllm")) is None
    assert usable_block(None) is None


def grown(calls: int, cached: int | None) -> Tree:
    """Return a tree with a prompt of 100 tokens and two segments of 30."""
    tree = Tree([1] * 100)
    for parent, key in ((ROOT, "0"), (1, "0.0")):
        tree.add(parent, Segment([5] * 30, [-1.0] * 30), key=key)
    tree.counters.engine_calls, tree.counters.cached_prompt_tokens = calls, cached
    return tree


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        (PrefixCache(enabled=False, block=16), "The cache is off."),
        (PrefixCache(enabled=True, block=130), "blocks of 130 tokens, and the longest input has 130."),
        (PrefixCache(enabled=True, block=129), "Perhaps it is too small"),
        (None, "does not describe its cache"),
    ],
)
def test_a_cache_without_a_hit_is_remarked_once_with_its_reason(cache, said, caplog):
    caplog.set_level(logging.WARNING)
    missing = MissingPrefixes()
    missing.count(cache, grown(ENOUGH_CALLS - 1, 0))
    assert caplog.records == []
    missing.count(cache, grown(1, 0))
    missing.count(cache, grown(1, 0))
    (record,) = caplog.records
    assert "found no prefix in the engine's cache" in record.getMessage() and said in record.getMessage()


@pytest.mark.parametrize("cached", [1, None])
def test_a_cache_with_a_hit_or_without_a_count_is_not_remarked(cached, caplog):
    missing = MissingPrefixes()
    missing.count(None, grown(1, cached))
    missing.count(None, grown(2 * ENOUGH_CALLS, 0 if cached else None))
    assert caplog.records == []
