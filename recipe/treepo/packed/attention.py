# SPDX-License-Identifier: Apache-2.0
"""Attention within packed prefix trees: each token sees those above it and itself.

Three ways, by the ``attn_implementation`` that the configuration names:

- ``sdpa``: chain by chain, with the keys on the path to the chain. That computes what attention over single sequences
  would, once, however many tokens are in the row; a mask of tokens against tokens would grow with the square of them.
  Keys and values on the path are held once for each chain.
- ``flex_attention``: one call with a mask of blocks, for GPUs.
- ``eager``: one call with a mask of tokens against tokens, for looking closely at small inputs.
"""

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from recipe.treepo.packed.prefix_tree import Packing, blocks, chains

CHAIN_ATTENTION = "treepo_chains"
"""Name under which transformers knows :func:`chain_attention`."""
BLOCK = 128
"""Tokens of a block of FlexAttention, its own default."""


class ChainLayout:
    """The chains of one packed row, for :func:`chain_attention`. Not a dataclass: FSDP would take it apart and copy it.

    Attributes:
        sizes: Tokens of each chain.
        paths: The chains above each.
        masks: (tokens of the chain, tokens on its path and of itself), True where a query sees a key; None for chains
            with nothing above them, which are causal.
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
        module: The layer, whose ``num_key_value_groups`` says how many heads share keys and values.
        query: (1, heads, tokens, size of a head).
        key: (1, heads that have keys, tokens, size of a head).
        value: The same shape.
        attention_mask: None; the chains say who sees whom.
        chains: The chains of the row.
        scaling: Of the scores; None for one over the root of the size of a head.
        dropout: Share of the weights that are dropped.

    Returns:
        (1, tokens, heads, size of a head), and no weights.
    """
    assert attention_mask is None
    groups = module.num_key_value_groups
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
    """Return (1, 1, tokens, tokens), query before key: 0 where a query sees a key, the lowest number where not."""
    place = torch.arange(len(end_U), device=end_U.device)
    sees = (place[None, :] <= place[:, None]) & (place[:, None] < end_U[None, :])
    return torch.zeros(sees.shape, dtype=dtype, device=end_U.device).masked_fill(~sees, torch.finfo(dtype).min)[
        None, None
    ]


def block_mask(packing: Packing, device: torch.device) -> BlockMask:
    """Return the same for FlexAttention; ``create_block_mask`` would first write down every pair of tokens."""
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
