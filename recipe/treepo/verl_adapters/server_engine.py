# SPDX-License-Identifier: Apache-2.0
"""Engine of the search: verl's client for its inference servers, adapted to trees.

verl's client (``verl/workers/rollout/llm_server.py``) assumes independent samples in three places:

1. Cancellation: the client awaits the remote call. If a search cancels a request, only this await is cancelled, and
   the server generates to the end. :class:`CancellableServer` cancels the remote call as well.
2. Request ids: ``generate`` uses one id to route a request and to name it in the engine. With
   ``rollout.full_determinism`` the engine gets the id unchanged. All requests of a tree must go to one replica, and
   several of them are in flight. :meth:`TreeClient._vllm_request_id` therefore separates the two ids.
3. Load balancing: the client asks the balancer for a server and gives it back in remote calls of their own, two of
   three for each request. Requests of a tree that are in flight together share one choice. Besides, a client cancelled
   while it waits for the choice never releases the server. :meth:`TreeClient._acquire_server` does both.
"""

import asyncio
import copy
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar
from uuid import uuid4

import ray
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from recipe.treepo.search.engine import EngineError, Segment
from recipe.treepo.search.seeds import derive_seed

# Function that makes the engine's next request id. Each request runs in its own task, with its own value.
_next_engine_id: ContextVar[Callable[[], str]] = ContextVar("treepo_next_engine_id")


class ServerEngine:
    """Engine that continues prefixes on verl's inference servers, all requests of a tree on one replica."""

    def __init__(
        self,
        client: LLMServerClient,
        sampling_params: dict[str, Any],
        *,
        seed: int | None,
        priority: int,
        record: bool = False,
        spread: bool = False,
    ) -> None:
        """Make the engine of one tree.

        Args:
            client: Client from :func:`tree_client`. It routes requests with the same id to one replica, so that a
                tree finds its own prefixes in the replica's prefix cache.
            sampling_params: Sampling parameters of verl's agent loops, plus the stop tokens and
                :func:`output_params`.
            seed: Seed of the tree if ``rollout.full_determinism`` is on; None for the engine's own generator. Each
                request gets its own seed derived from it, because verl gives all requests the same seed, and siblings
                would be equal. Request ids are then the same in every run.
            priority: Priority of the tree's requests in the engine's queue, set by verl.
            record: Whether to keep all calls in ``calls``.
            spread: Whether to route each child of the root separately, as verl routes independent samples.
        """
        self._client = client
        self._sampling_params = {**sampling_params, "logprobs": True}
        self._seed = seed
        self._priority = priority
        self._record, self._spread = record, spread
        # Under full_determinism, verl's load balancer routes by a hash of this id (router.py, acquire_server).
        self._tree_id = uuid4().hex if seed is None else f"tree-{seed:x}"
        self._attempts: Counter[str] = Counter()
        self.calls: list[dict[str, Any]] = []

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """Sample a segment after a prefix; see :class:`recipe.treepo.search.engine.SegmentEngine`."""
        params = {**self._sampling_params, "max_tokens": max_tokens}
        if self._seed is not None:
            params["seed"] = derive_seed(self._seed, branch) % 2**31
        prompt_ids = list(input_ids)  # verl's type; Ray copies it to the server
        _next_engine_id.set(partial(self._engine_id, branch))
        output: TokenOutput = await self._client.generate(
            request_id=self._routing_id(branch),
            prompt_ids=prompt_ids,
            sampling_params=params,
            priority=self._priority,
        )
        if output.stop_reason in ("aborted", "abort"):
            raise EngineError(f"the engine aborted the request: branch {branch}")
        fields = output.extra_fields
        if self._record:
            self.calls.append({"branch": branch, "input_ids": prompt_ids, "output_ids": list(output.token_ids)})
        return Segment(
            token_ids=output.token_ids,
            logprobs=output.log_probs or [],
            cached_tokens=fields.get("num_cached_tokens"),  # only verl's vLLM server has it
            min_version=fields.get("min_global_steps"),
            max_version=fields.get("max_global_steps"),
        )

    def _routing_id(self, branch: str) -> str:
        """Return the id that selects the replica."""
        if not self._spread:
            return self._tree_id
        # The name of a branch begins with the number of the root's child on its path.
        child = re.match("[0-9]+", branch)
        assert child is not None, f"{branch} is not the name of a branch"
        return f"{self._tree_id}-{child[0]}"

    def _engine_id(self, branch: str) -> str:
        """Return a new request id: the previous attempt of a repeated request may still exist in the engine."""
        if self._seed is None:
            return uuid4().hex
        self._attempts[branch] += 1
        return f"{self._tree_id}-{branch}-{self._attempts[branch]}"


def output_params(rollout_name: str, stop_strings: Sequence[str]) -> dict[str, Any]:
    """Return the sampling parameters for stop strings and for results that come once, at the end of a request.

    Only vLLM has a tokenizer and can stop at strings. Other engines generate the whole segment, and the search cuts it.
    By default, vLLM decodes every token to text and returns the whole list after each step, of which verl reads the
    last. Without both, 128 requests at once took 1/1.29 of the time.

    Args:
        rollout_name: ``rollout.name``.
        stop_strings: Strings at which the engine stops.
    """
    if rollout_name != "vllm":
        return {}
    from vllm.sampling_params import RequestOutputKind

    params: dict[str, Any] = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": bool(stop_strings)}
    if stop_strings:
        # vLLM always returns the tokens of the stop string (BaseIncrementalDetokenizer.update).
        params["stop"] = list(stop_strings)
    return params


# --- verl's client ---------------------------------------------------------------------------------------------


def tree_client(client: LLMServerClient) -> LLMServerClient:
    """Return a copy of verl's client for the requests of trees.

    Its class derives from the class of ``client``, which depends on verl's trainer. The client of the async trainers
    continues requests that a weight update interrupted, and acquires a server and an id for each part.
    """
    copied = copy.copy(client)
    copied.__class__ = type(f"Tree{type(client).__name__}", (TreeClient, type(client)), {"leases": {}})
    return copied


@dataclass(slots=True)
class Lease:
    """The balancer's choice of a server.

    Attributes:
        acquired: Server id and handle, once chosen.
        users: Requests that use it, or wait for it.
    """

    acquired: asyncio.Future[tuple[str, ray.actor.ActorHandle]]
    users: int = 0


class TreeClient(LLMServerClient):
    """Overrides that :func:`tree_client` adds to verl's client classes.

    Attributes:
        leases: By request id, which the requests of a tree share. Each client has its own.
    """

    leases: ClassVar[dict[str | None, Lease]] = {}

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, "CancellableServer"]:
        lease = self.leases.get(request_id)
        if lease is None or not self._shares_choice:
            lease = Lease(asyncio.ensure_future(super()._acquire_server(request_id, **extra)))
            if self._shares_choice:
                self.leases[request_id] = lease
        lease.users += 1
        try:
            # verl's generate releases the server in a `finally` that begins after this call. If this call were
            # cancelled, the balancer would still choose a server and count a request on it forever.
            server_id, server = await asyncio.shield(lease.acquired)
        except BaseException:
            self._leave(request_id, lease)
            raise
        return server_id, CancellableServer(server)

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        lease = self.leases.get(request_id)
        if lease is None:
            super()._release_server(server_id, request_id=request_id)
        else:
            self._leave(request_id, lease)

    @property
    def _shares_choice(self) -> bool:
        """Whether a choice holds for other requests: not if a router reads them, nor while servers come and go."""
        return self._lb_require_acquire_fields == [] and not isinstance(self, FullyAsyncLLMServerClient)

    def _leave(self, request_id: str | None, lease: Lease) -> None:
        lease.users -= 1
        if lease.users == 0:
            if self.leases.get(request_id) is lease:
                del self.leases[request_id]
            lease.acquired.add_done_callback(partial(self._give_back, request_id))

    def _give_back(self, request_id: str | None, acquired: asyncio.Future[Any]) -> None:
        if not acquired.cancelled() and acquired.exception() is None:
            super()._release_server(acquired.result()[0], request_id=request_id)

    def _vllm_request_id(self, request_id: str) -> str:
        """Return the engine's id of a request; ``request_id`` is the tree's id, shared by several requests."""
        return _next_engine_id.get()()


class CancellableServer:
    """Handle of an inference server whose ``generate`` ends when the awaiting task is cancelled.

    Cancelling the future of an ObjectRef does not cancel the remote task (``ObjectRef.as_future``). ``ray.cancel``
    does: on an async actor it cancels the asyncio task, and vLLM's ``AsyncLLM.generate`` then aborts its request.

    Attributes:
        finished_requests: Number of requests that returned in this process, of all servers.
    """

    finished_requests = 0

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
        """Start the call now, like Ray, and return a coroutine, which verl awaits immediately."""
        return _await_or_cancel(self._method.remote(*args, **kwargs))


async def _await_or_cancel(ref: ray.ObjectRef) -> Any:
    try:
        result = await ref
        CancellableServer.finished_requests += 1
        return result
    except asyncio.CancelledError:
        ray.cancel(ref)
        raise
