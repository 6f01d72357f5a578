# SPDX-License-Identifier: Apache-2.0
"""vLLM in this process, without verl, as the engine of a search."""

import os
from collections.abc import Sequence
from typing import Any

from recipe.treepo.search.engine import Segment


def start_engine(model: str, *, max_model_len: int, dtype: str = "float32", block_size: int = 32) -> Any:
    """Return a running engine with a prefix cache; ``shutdown()`` ends it.

    Args:
        block_size: Tokens per cache block; at least 32 on a CPU.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model,
            dtype=dtype,
            max_model_len=max_model_len,
            enforce_eager=True,
            enable_prefix_caching=True,
            block_size=block_size,
            disable_log_stats=True,
        )
    )


class VllmEngine:
    """vLLM engine in this process."""

    def __init__(self, engine: Any, stop_token_ids: list[int]) -> None:
        self._engine, self._stop_token_ids, self._number = engine, stop_token_ids, 0

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0,
            logprobs=0,
            stop_token_ids=self._stop_token_ids,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._number += 1
        async for output in self._engine.generate(
            TokensPrompt(prompt_token_ids=list(input_ids)), params, request_id=str(self._number)
        ):
            final = output
        sample = final.outputs[0]
        logprobs = [entry[token].logprob for entry, token in zip(sample.logprobs, sample.token_ids, strict=True)]
        return Segment(list(sample.token_ids), logprobs, cached_tokens=final.num_cached_tokens)
