# SPDX-License-Identifier: Apache-2.0
"""Attention within packed prefix trees: each token attends to its ancestors and itself.

``attn_implementation`` selects one of three implementations:

- ``sdpa``: one call per chain, with the keys on the path to the chain. A query attends to as many keys as in a single
  sequence, however many tokens the row has, and shared tokens are computed once. A token-by-token mask would grow with
  the square of the tokens. Keys and values on the path are copied for each chain.
- ``flex_attention``: one call with a block mask, for GPUs.
- ``eager``: one call with a token-by-token mask, to inspect small inputs.
"""

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from recipe.treepo.packed.prefix_tree import Packing, blocks, chains

CHAIN_ATTENTION = "treepo_chains"
"""Name of :func:`chain_attention` in transformers."""
BLOCK = 128
"""Tokens per block of FlexAttention; its default."""


class ChainLayout:
    """Chains of one packed row, for :func:`chain_attention`.

    Not a dataclass, because FSDP would take it apart and copy it.

    Attributes:
        sizes: Number of tokens of each chain.
        paths: Chains above each chain, from the root down.
        masks: (tokens of the chain, tokens of its path and its own), True if a query attends to a key; None for chains
            at a root, which use causal attention.
    """

    def __init__(self, packing: Packing, device: torch.device) -> None:
        self.sizes, self.paths = chains(packing)
        self.masks: list[torch.Tensor | None] = []
        for size, path in zip(self.sizes, self.paths, strict=True):
            above = sum(self.sizes[chain] for chain in path)
            shape = size, above + size
            self.masks.append(torch.ones(shape, dtype=torch.bool, device=device).tril(above) if path else None)


def chain_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    chains: ChainLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within one packed row; an attention function of transformers.

    Args:
        module: Attention layer; ``num_key_value_groups`` is its number of query heads per key-value head.
        query: (1, heads, tokens, head size).
        key: (1, key-value heads, tokens, head size).
        value: Same shape as ``key``.
        attention_mask: None; ``chains`` defines the mask.
        chains: Chains of the row.
        scaling: Factor of the scores; None for 1 / sqrt(head size).
        dropout: Fraction of the attention weights to drop.

    Returns:
        Output, (1, tokens, heads, head size), and None in place of attention weights.
    """
    assert attention_mask is None
    groups = module.num_key_value_groups
    assert isinstance(groups, int)
    queries, keys, values = (states.split(chains.sizes, dim=2) for states in (query, key, value))
    outputs = []
    for chain, (path, mask) in enumerate(zip(chains.paths, chains.masks, strict=True)):
        seen = [*path, chain]
        outputs.append(
            scaled_dot_product_attention(
                queries[chain],
                repeat_kv(torch.cat([keys[other] for other in seen], dim=2), groups),
                repeat_kv(torch.cat([values[other] for other in seen], dim=2), groups),
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scaling,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(CHAIN_ATTENTION, chain_attention)


def token_mask(end_U: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Build an additive mask, (1, 1, queries, keys): 0 if a query attends to a key, else the lowest number."""
    place = torch.arange(len(end_U), device=end_U.device)
    sees = (place[None, :] <= place[:, None]) & (place[:, None] < end_U[None, :])
    return torch.zeros(sees.shape, dtype=dtype, device=end_U.device).masked_fill(~sees, torch.finfo(dtype).min)[
        None, None
    ]


def block_mask(packing: Packing, device: torch.device) -> BlockMask:
    """Build FlexAttention's mask; ``create_block_mask`` would first materialize every pair of tokens."""
    end_U = torch.from_numpy(packing.end_U).to(device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < end_U[key])

    some, full = (torch.from_numpy(found).to(device)[None, None] for found in blocks(packing.end_U, BLOCK))
    partial = some & ~full
    kinds = [
        (found.sum(dim=-1, dtype=torch.int32), found.int().argsort(dim=-1, descending=True, stable=True).int())
        for found in (partial, full)
    ]
    length = len(packing.end_U)
    return BlockMask.from_kv_blocks(*kinds[0], *kinds[1], BLOCK, sees, seq_lengths=(length, length))
