# SPDX-License-Identifier: Apache-2.0
"""The engine's prefix cache: its block size, and the reason why trees find no prefix in it."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from verl.workers.rollout.llm_server import LLMServerClient

from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.verl_values import ROLLOUT

logger = logging.getLogger(__name__)
# Requests of trees after which a cache without a hit is remarked.
ENOUGH_CALLS = 64


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """Prefix cache of an engine.

    Attributes:
        enabled: Whether the engine caches prefixes.
        block: Tokens of a block; prefixes are found in whole blocks.
    """

    enabled: bool
    block: int


def _of_vllm(server: Any) -> tuple[bool, int] | None:
    """Read the cache of verl's vLLM server, in its process; None on a node without the engine's front end."""
    engine = getattr(server, "engine", None)
    if engine is None:
        return None
    cache = engine.vllm_config.cache_config
    # The front end has the sizes from the engine, which enlarges them for models that mix attention with states. States
    # are cached at the ends of their own blocks (mamba_block_size).
    return bool(cache.enable_prefix_caching), math.lcm(cache.block_size, cache.mamba_block_size or 1)


async def prefix_cache_of(client: LLMServerClient, rollout_name: str) -> PrefixCache | None:
    """Ask one of the servers for its prefix cache; None for engines other than vLLM, which cannot be asked.

    Args:
        rollout_name: ``rollout.name``.
    """
    if rollout_name != "vllm":
        return None
    name = "prefix cache"
    address, server = await client._acquire_server(name)
    try:
        found = await server.__ray_call__.remote(_of_vllm)
    finally:
        client._release_server(address, request_id=name)
    return None if found is None else PrefixCache(*found)


def usable_block(cache: PrefixCache | None) -> int | None:
    """Return the block size with which segments should align, None without a cache."""
    return cache.block if cache is not None and cache.enabled else None


class MissingPrefixes:
    """Remarks once, with the reason, that trees find no prefix in the engine's cache."""

    def __init__(self) -> None:
        self._calls = self._cached = self._longest = 0
        self._said = False

    def count(self, cache: PrefixCache | None, tree: Tree) -> None:
        """Count a tree; log the remark after :data:`ENOUGH_CALLS` requests without a cached token."""
        counters = tree.counters
        if self._said or self._cached or counters.cached_prompt_tokens is None:
            return
        self._calls += counters.engine_calls
        self._cached += counters.cached_prompt_tokens
        self._longest = max(self._longest, len(tree.prompt_ids) + max(node.offset for node in tree.nodes))
        if self._calls >= ENOUGH_CALLS and self._cached == 0:
            self._said = True
            text = "trees found no prefix in the engine's cache, so each request computes its whole input. %s"
            logger.warning(text, reason(self._longest, cache))


def reason(longest_input: int, cache: PrefixCache | None) -> str:
    """Return why no input of a tree was found in the cache, and a remedy."""
    if cache is None:
        return "The engine does not describe its cache."
    if not cache.enabled:
        return f"The cache is off. Use {ROLLOUT}.enable_prefix_caching=true; some models do not support it."
    if longest_input <= cache.block:
        return (
            f"It holds whole blocks of {cache.block} tokens, and the longest input has {longest_input}. Trees save "
            "decoded tokens only; models without recurrent layers have smaller blocks."
        )
    return f"Perhaps it is too small for the prompts in flight. Use a higher {ROLLOUT}.gpu_memory_utilization."
