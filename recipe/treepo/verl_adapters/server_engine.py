# SPDX-License-Identifier: Apache-2.0
"""The engine of the search: verl's client for its inference servers, made fit for trees.

Three things that verl's client (``verl/workers/rollout/llm_server.py``) does are right for single samples only:

1. It awaits the remote call. When a search gives its requests up, that await is cancelled and the server, which knows
   nothing of it, generates on to the end: :class:`CancellableServer`.
2. ``generate`` takes one id for two purposes, where to route a request and what the engine calls it, and with
   ``rollout.full_determinism`` the engine gets it unchanged. All requests of a tree have to go to one replica, and
   several of them are in flight: :meth:`TreeClient._vllm_request_id` separates the two.
3. The load balancer counts a request from the moment when the server was chosen, and the client takes it off again
   only if it got that far: :meth:`TreeClient._acquire_server`.
"""

import asyncio
import copy
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any
from uuid import uuid4

import ray
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from recipe.treepo.search.engine import Segment
from recipe.treepo.search.seeds import derive_seed

# Makes the next id for the engine. Requests run in tasks of their own, each of which has its own value.
_next_engine_id: ContextVar[Callable[[], str]] = ContextVar("treepo_next_engine_id")


class ServerEngine:
    """Continue prefixes with verl's inference servers, all requests of a tree on one replica."""

    def __init__(
        self,
        client: LLMServerClient,
        sampling_params: dict[str, Any],
        *,
        seed: int | None,
        priority: int,
        stop_strings: Sequence[str] = (),
        record: bool = False,
        spread: bool = False,
    ) -> None:
        """Make the engine of one tree.

        Args:
            client: What :func:`tree_client` returned. It routes requests with the same id to the same replica, so
                that a tree meets its own prefixes in the replica's cache.
            sampling_params: As verl's agent loops get them, with the stop tokens added.
            seed: Seed of the tree where ``rollout.full_determinism`` is on: each request then gets a seed of its own,
                because verl gives all requests one seed, and siblings would come out equal; and the ids are the same
                in every run. None to leave sampling to the engine's generator.
            priority: Priority of the tree's requests in the engine's queue, as verl sets it.
            stop_strings: Texts at which the engine is to stop, for engines that have a tokenizer.
            record: Whether to keep all calls in ``calls``.
            spread: Whether each child of the root is routed on its own, as verl routes independent samples.
        """
        self._client = client
        self._sampling_params = {**sampling_params, "logprobs": True}
        if stop_strings:
            # vLLM returns the tokens of the stop string in any case (BaseIncrementalDetokenizer.update).
            self._sampling_params["stop"] = list(stop_strings)
        self._seed = seed
        self._priority = priority
        self._record, self._spread = record, spread
        # verl's load balancer routes by a hash of this id under full_determinism (router.py, acquire_server).
        self._tree_id = uuid4().hex if seed is None else f"tree-{seed:x}"
        self._attempts: Counter[str] = Counter()
        self.calls: list[dict[str, Any]] = []

    async def extend(self, input_ids: list[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        params = {**self._sampling_params, "max_tokens": max_tokens}
        if self._seed is not None:
            params["seed"] = derive_seed(self._seed, branch) % 2**31
        _next_engine_id.set(partial(self._engine_id, branch))
        output: TokenOutput = await self._client.generate(
            request_id=self._routing_id(branch),
            prompt_ids=input_ids,
            sampling_params=params,
            priority=self._priority,
        )
        if output.stop_reason in ("aborted", "abort"):
            raise RuntimeError(f"the engine aborted the request for branch {branch}")
        fields = output.extra_fields
        if self._record:
            self.calls.append({"branch": branch, "input_ids": input_ids, "output_ids": list(output.token_ids)})
        return Segment(
            token_ids=list(output.token_ids),
            logprobs=list(output.log_probs or []),
            cached_tokens=fields.get("num_cached_tokens") or 0,
            min_version=fields.get("min_global_steps"),
            max_version=fields.get("max_global_steps"),
        )

    def _routing_id(self, branch: str) -> str:
        """Return what decides about the replica."""
        if not self._spread:
            return self._tree_id
        # The name of a branch begins with the number of the root's child that its path goes through.
        child = re.match("[0-9]+", branch)
        assert child is not None, f"{branch} is not the name of a branch"
        return f"{self._tree_id}-{child[0]}"

    def _engine_id(self, branch: str) -> str:
        """Return a new id: a request that is repeated must not meet the one before it, which may not be gone yet."""
        if self._seed is None:
            return uuid4().hex
        self._attempts[branch] += 1
        return f"{self._tree_id}-{branch}-{self._attempts[branch]}"


# --- verl's client ---------------------------------------------------------------------------------------------


def tree_client(client: LLMServerClient) -> LLMServerClient:
    """Return a copy of verl's client for the requests of trees.

    The class is made from the client's own, because each trainer of verl brings another: the one of the async trainers
    goes on with what a weight update cut off, and asks for a server and an id for each part.
    """
    copied = copy.copy(client)
    copied.__class__ = type(f"Tree{type(client).__name__}", (TreeClient, type(client)), {})
    return copied


class TreeClient(LLMServerClient):
    """What :func:`tree_client` changes in a class of verl's clients."""

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, "CancellableServer"]:
        acquiring = asyncio.ensure_future(super()._acquire_server(request_id, **extra))
        try:
            # verl's generate releases the server in a `finally` that begins after this call. Cancelled here, the
            # balancer would choose one all the same, and count a request on it for ever.
            server_id, server = await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            acquiring.add_done_callback(partial(self._give_back, request_id))
            raise
        return server_id, CancellableServer(server)

    def _give_back(self, request_id: str, acquired: asyncio.Future[Any]) -> None:
        if not acquired.cancelled() and acquired.exception() is None:
            self._release_server(acquired.result()[0], request_id=request_id)

    def _vllm_request_id(self, request_id: str) -> str:
        """Name a request for the engine; ``request_id`` is the tree's, which several requests have."""
        return _next_engine_id.get()()


class CancellableServer:
    """Handle of an inference server whose ``generate`` ends when whoever awaits it is cancelled.

    Ray says of awaiting an ObjectRef that cancelling the future will not cancel the task (``ObjectRef.as_future``).
    ``ray.cancel`` does: on an async actor it cancels the asyncio task, and vLLM's ``AsyncLLM.generate`` aborts its
    request then.
    """

    def __init__(self, server: ray.actor.ActorHandle) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    @property
    def generate(self) -> "_CancellableMethod":
        return _CancellableMethod(self._server.generate)


class _CancellableMethod:
    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Start the call now, like Ray, and return what is to be awaited at once, as verl does."""
        return _await_or_cancel(self._method.remote(*args, **kwargs))


async def _await_or_cancel(ref: ray.ObjectRef) -> Any:
    try:
        return await ref
    except asyncio.CancelledError:
        ray.cancel(ref)
        raise
