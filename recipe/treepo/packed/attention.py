# SPDX-License-Identifier: Apache-2.0
"""Attention within packed prefix trees: each token attends to its ancestors and itself.

``attn_implementation`` selects one of three implementations:

- ``sdpa``: one call per chain, with the keys on the path to the chain, or per chain with all tokens below it, whichever
  costs less. A query attends to hardly more keys than in a single sequence, however many tokens the row has. One
  token-by-token mask would grow with the square of the tokens. Each call copies the keys and values on its path.
- ``flex_attention``: one call with a block mask, for GPUs.
- ``eager``: one call with a token-by-token mask, to inspect small inputs.
"""

from itertools import accumulate
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from recipe.treepo.packed.prefix_tree import AttentionCall, CallCost, Packing, attention_calls, blocks, chains

CHAIN_ATTENTION = "treepo_chains"
"""Name of :func:`chain_attention` in transformers."""
COST = CallCost(call=17_000, key=25)
"""Cost of a call of :func:`chain_attention`, fit by ``benchmarks.attention_cost`` on two CPU cores."""
BLOCK = 128
"""Tokens per block of FlexAttention; its default."""


class ChainLayout:
    """Attention calls of one packed row, for :func:`chain_attention`.

    Not a dataclass, because FSDP would take it apart and copy it.

    Attributes:
        sizes: Number of tokens of each chain.
        calls: The calls, in the order of their queries.
        masks: (queries, keys above them and their own), True if a query attends to a key; None for chains at a root,
            which use causal attention.
    """

    def __init__(self, packing: Packing, device: torch.device, cost: CallCost = COST) -> None:
        self.sizes, _ = chains(packing)
        self.calls = attention_calls(packing, cost)
        begins = [0, *accumulate(self.sizes)]
        self.masks = [self._mask(call, begins, packing, device) for call in self.calls]

    def _mask(
        self, call: AttentionCall, begins: list[int], packing: Packing, device: torch.device
    ) -> torch.Tensor | None:
        if len(call.chains) == 1 and not call.above:
            return None
        begin, end = begins[call.chains.start], begins[call.chains.stop]
        count, above = end - begin, sum(self.sizes[chain] for chain in call.above)
        mask = torch.ones((count, above + count), dtype=torch.bool, device=device).tril(above)
        if len(call.chains) > 1:
            end_U = torch.from_numpy(packing.end_U[begin:end]).to(device)
            mask[:, above:] &= torch.arange(begin, end, device=device)[:, None] < end_U
        return mask


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
    query_C, key_C, value_C = (states.split(chains.sizes, dim=2) for states in (query, key, value))
    outputs = []
    for call, mask in zip(chains.calls, chains.masks, strict=True):
        seen = [*call.above, *call.chains]
        own, keys, values = (
            torch.cat([states_C[chain] for chain in some], dim=2)
            for states_C, some in ((query_C, call.chains), (key_C, seen), (value_C, seen))
        )
        # On accelerators, not every kernel knows groups. On a CPU, repeating can take most of the time.
        repeats = query.device.type != "cpu"
        if repeats:
            keys, values = repeat_kv(keys, groups), repeat_kv(values, groups)
        outputs.append(
            scaled_dot_product_attention(
                own,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=not repeats,
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
