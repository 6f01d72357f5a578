# SPDX-License-Identifier: Apache-2.0
"""Engine of a search on a model of transformers, without verl or a server: for demos, notebooks and tests.

Requests that wait together are computed as one batch. The keys and values of prefixes are kept, so that a branch
computes its own tokens only. A server is faster: it adds requests to a running batch.

    engine = TransformersEngine(model, stop_token_ids=[tokenizer.eos_token_id])
    tree = await grow_tree(prompt_ids, engine=engine, shape=shape, stopping=stopping, seed=0)
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

import torch
from transformers import DynamicCache

from recipe.treepo.search.engine import Segment


@dataclass(slots=True)
class Request:
    """A request and what it has sampled.

    Attributes:
        input_ids: Tokens of prompt and path.
        max_tokens: Maximum tokens to sample.
        rng: Random generator of its tokens.
        answer: Receives the result.
        cached: Number of input tokens that come from the cache.
        prefix: Kept tokens that begin with these, None if there are none.
        token_ids: Sampled tokens so far.
        logprobs: Their log-probabilities.
        is_done: Whether no further token is sampled.
    """

    input_ids: list[int]
    max_tokens: int
    rng: random.Random
    answer: "asyncio.Future[Segment]"
    cached: int = 0
    prefix: "Prefix | None" = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens with their keys and values.

    Attributes:
        token_ids: The tokens.
        keys: Of each layer, (key-value heads, tokens, head size).
        values: Likewise.
    """

    token_ids: list[int]
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


class TransformersEngine:
    """Engine of ``grow_tree``; one may serve several trees at once.

    A tree is the same again with equal ``seed``, if no other trees are sampled with the engine.

    Attributes:
        batches: Number of batches so far.
        computed_tokens: Input tokens that passed through the model so far; those from the cache did not.
    """

    def __init__(
        self,
        model: Any,
        *,
        stop_token_ids: Sequence[int],
        temperature: float = 1.0,
        seed: int = 0,
        max_batch: int = 64,
        max_cached_tokens: int = 65_536,
    ) -> None:
        """Take a causal language model whose layers all attend to the whole context.

        Args:
            model: Model of transformers, on any device.
            stop_token_ids: Tokens that end a response.
            temperature: Sampling temperature, above 0. Log-probabilities are those at this temperature.
            seed: Seed of all random numbers.
            max_batch: Maximum requests of a batch.
            max_cached_tokens: Maximum tokens whose keys and values are kept.

        Raises:
            ValueError: if a layer sees a part of the context only.
        """
        kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(model.config, "sliding_window", None) is not None:
            raise ValueError(f"{type(model).__name__}: must attend to the whole context in all layers. Use a server.")
        self._model, self._stops, self._temperature, self._seed = model, frozenset(stop_token_ids), temperature, seed
        self._max_batch, self._max_cached = max_batch, max_cached_tokens
        self._waiting: list[Request] = []
        self._server: asyncio.Task[None] | None = None
        self._cache: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self.batches = self.computed_tokens = 0

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """Sample tokens; see ``SegmentEngine``."""
        answer: asyncio.Future[Segment] = asyncio.get_running_loop().create_future()
        request = Request([*input_ids], max_tokens, random.Random(f"{self._seed}/{branch}/{[*input_ids]}"), answer)
        self._waiting.append(request)
        if self._server is None or self._server.done():  # its loop may have ended before it began
            self._server = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self) -> None:
        """Compute batches until no request waits."""
        try:
            await asyncio.sleep(0)  # the other requests of a level
            while self._waiting:
                batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
                batch = [request for request in batch if not request.answer.cancelled()]
                try:
                    if batch:
                        await asyncio.to_thread(self._compute, batch)
                except Exception as error:  # the search counts it as failed requests
                    for request in batch:
                        if not request.answer.done():
                            request.answer.set_exception(error)
                for request in batch:
                    if not request.answer.done():
                        segment = Segment(request.token_ids, request.logprobs, cached_tokens=request.cached)
                        request.answer.set_result(segment)
                await asyncio.sleep(0)
        finally:
            self._server = None

    # --- one batch, in a thread --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _compute(self, batch: list[Request]) -> None:
        """Sample the tokens of all requests of a batch."""
        self.batches += 1
        for request in batch:
            request.prefix, request.cached = self._longest_prefix(request.input_ids)
        # All rows compute equally many new tokens: rows with a longer prefix compute some of it again.
        new = max(len(request.input_ids) - request.cached for request in batch)
        for request in batch:
            request.cached = max(0, len(request.input_ids) - new)
        device, past = self._model.device, max(request.cached for request in batch)
        cache = self._joined(batch, past)
        tokens, places = (torch.zeros(len(batch), new, dtype=torch.long, device=device) for _ in range(2))
        seen = torch.zeros(len(batch), past + new, dtype=torch.bool, device=device)
        for row, request in enumerate(batch):
            own = request.input_ids[request.cached :]
            tokens[row, new - len(own) :] = torch.tensor(own, device=device)
            places[row, new - len(own) :] = torch.arange(request.cached, len(request.input_ids), device=device)
            seen[row, past - request.cached : past] = True
            seen[row, past + new - len(own) :] = True
            self.computed_tokens += len(own)
        # A query attends to the real tokens up to itself. Padding attends to itself, or its row would have no key.
        mask = seen[:, None, None, :] & torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)
        mask |= torch.eye(new, past + new, dtype=torch.bool, device=device).roll(past, 1)
        while True:
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            self._sample(batch, output.logits[:, -1].float())
            if all(request.is_done for request in batch):
                break
            last = [request.token_ids[-1] for request in batch]
            ends = [len(request.input_ids) + len(request.token_ids) - 1 for request in batch]
            tokens, places = (torch.tensor(found, device=device)[:, None] for found in (last, ends))
            seen = torch.cat([seen, torch.ones(len(batch), 1, dtype=torch.bool, device=device)], dim=1)
            mask = seen[:, None, None, :]
        self._keep(batch, cache, past, new)

    def _sample(self, batch: list[Request], logits: torch.Tensor) -> None:
        """Sample the next token of each request that is not done."""
        logprobs = torch.log_softmax(logits / self._temperature, dim=-1)
        sums = logprobs.exp().double().cumsum(dim=-1)
        draws = torch.tensor([[request.rng.random()] for request in batch], dtype=torch.double, device=logits.device)
        chosen = torch.searchsorted(sums, draws * sums[:, -1:]).clamp(max=logits.shape[-1] - 1)
        values = logprobs.gather(1, chosen)[:, 0].tolist()
        for request, token, logprob in zip(batch, chosen[:, 0].tolist(), values, strict=True):
            if not request.is_done:
                request.token_ids.append(token)
                request.logprobs.append(logprob)
                request.is_done = token in self._stops or len(request.token_ids) >= request.max_tokens

    # --- keys and values of prefixes ---------------------------------------------------------------------------------

    def _longest_prefix(self, input_ids: list[int]) -> tuple[Prefix | None, int]:
        """Return the kept tokens that share most with the input, and how many; the last token is always computed."""
        best, most = None, 0
        for prefix in self._cache.values():
            shared = len(commonprefix([prefix.token_ids, input_ids[:-1]]))
            if shared > most:
                best, most = prefix, shared
        return best, most

    def _joined(self, batch: list[Request], past: int) -> DynamicCache:
        """Return the keys and values of the prefixes of all rows, padded at the left to ``past`` tokens."""
        cache = DynamicCache(config=self._model.config)
        if past == 0:
            return cache
        example = next(request.prefix for request in batch if request.prefix is not None)
        for layer in range(len(example.keys)):
            rows: list[list[torch.Tensor]] = [[], []]
            for request in batch:
                for found, kind in zip(rows, ("keys", "values"), strict=True):
                    own = getattr(request.prefix or example, kind)[layer][:, : request.cached]
                    padding = own.new_zeros(own.shape[0], past - request.cached, own.shape[2])
                    found.append(torch.cat([padding, own], dim=1))
            cache.update(torch.stack(rows[0]), torch.stack(rows[1]), layer)
        return cache

    def _keep(self, batch: list[Request], cache: DynamicCache, past: int, new: int) -> None:
        """Keep keys and values of all tokens but the last sampled one, which has none; drop the oldest."""
        for row, request in enumerate(batch):
            token_ids = [*request.input_ids, *request.token_ids[:-1]]
            own = len(request.input_ids) - request.cached
            places = [*range(past - request.cached, past), *range(past + new - own, past + new)]
            places += range(past + new, past + new + len(request.token_ids) - 1)
            keys, values = (
                [getattr(layer, kind)[row][:, places] for layer in cache.layers] for kind in ("keys", "values")
            )
            self._cache[tuple(token_ids)] = Prefix(token_ids, keys, values)
        while sum(len(prefix.token_ids) for prefix in self._cache.values()) > self._max_cached:
            self._cache.popitem(last=False)
