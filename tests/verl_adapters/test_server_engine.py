# SPDX-License-Identifier: Apache-2.0
"""Engine of the search on verl's own clients, with recorders in place of Ray's actors (balancer and server)."""

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from omegaconf import OmegaConf
from ray.exceptions import RayTaskError, TaskCancelledError
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput
from vllm.sampling_params import RequestOutputKind

from recipe.treepo.search import SearchError, SearchShape, grow_tree
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.engine import EngineError, Segment
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.search.stopping import FinishReason, StoppingRules
from recipe.treepo.search.tree import Tree
from recipe.treepo.verl_adapters import server_engine as server
from recipe.treepo.verl_adapters.server_engine import CancellableServer, ServerEngine, output_params, tree_client

CLIENTS = pytest.mark.parametrize("client_class", [LLMServerClient, FullyAsyncLLMServerClient])


class Remote:
    """Actor method: ``remote`` copies keyword arguments and returns a future, pending if the method returns None."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.calls: list[asyncio.Future] = []

    def remote(self, *args: Any, **kwargs: Any) -> asyncio.Future:
        self.calls.append(asyncio.get_running_loop().create_future())
        answer = self._method(*args, **copy.deepcopy(kwargs))
        if answer is not None:
            self.calls[-1].set_result(answer)
        return self.calls[-1]


class Server:
    """Inference server that returns tokens and cycles through ``stop_reasons``, or never returns."""

    def __init__(
        self, *, stop_reasons: tuple[str, ...] = ("completed",), answers: bool = True, counts_cached: bool = True
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.stop_reasons = stop_reasons
        self.answers = answers
        self.counted = {"num_cached_tokens": 3} if counts_cached else {}
        self.generate = Remote(self._generate)

    def _generate(self, **request: Any) -> TokenOutput | None:
        self.requests.append(request)
        if not self.answers:
            return None
        fields = {**self.counted, "global_steps": 3 + len(self.requests)}
        stop_reason = self.stop_reasons[(len(self.requests) - 1) % len(self.stop_reasons)]
        return TokenOutput(
            token_ids=[8, 9], log_probs=[-1.0, -2.0], stop_reason=stop_reason, num_preempted=0, extra_fields=fields
        )

    @property
    def names(self) -> list[str]:
        return [request["request_id"] for request in self.requests]


class Balancer:
    """verl's load balancer with one server."""

    def __init__(self, server: Server, *, chooses: bool = True) -> None:
        self.server, self.chooses = server, chooses
        self.acquired: list[str] = []
        self.released: list[str] = []
        self.require_acquire_fields = Remote(list)
        self.require_release_fields = Remote(list)
        self.acquire_server = Remote(self._acquire)
        self.release_server = Remote(self._release)

    def _acquire(self, request_id: str) -> tuple[str, Server] | None:
        self.acquired.append(request_id)
        return ("address", self.server) if self.chooses else None

    def _release(self, server_id: str) -> None:
        self.released.append(server_id)


@pytest.fixture
def cancelled(monkeypatch) -> list[asyncio.Future]:
    """Calls passed to ray.cancel."""
    refs: list[asyncio.Future] = []
    monkeypatch.setattr(server.ray, "cancel", refs.append)
    return refs


def make_client(
    balancer: Balancer, client_class: type = LLMServerClient, *, full_determinism: bool = False
) -> LLMServerClient:
    rollout = {"name": "vllm", "full_determinism": full_determinism, "response_length": 70}
    return tree_client(client_class(OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}}), balancer))


def make_engine(balancer: Balancer, client_class: type = LLMServerClient, *, seed: int | None = None, **options: Any):
    client = make_client(balancer, client_class, full_determinism=seed is not None)
    return ServerEngine(client, {"temperature": 0.5}, seed=seed, priority=6, **options)


async def extend(engine: ServerEngine, *branches: str) -> list[Segment]:
    return [await engine.extend([1, 2], max_tokens=7, branch=branch) for branch in branches]


# --- requests and results --------------------------------------------------------------------------------------


@CLIENTS
def test_a_request_asks_for_logprobs_and_returns_tokens_cache_hits_and_versions(client_class):
    balancer = Balancer(Server())
    segment = asyncio.run(extend(make_engine(balancer, client_class), "0"))[0]
    assert segment == Segment([8, 9], [-1.0, -2.0], cached_tokens=3, min_version=4, max_version=4)
    request = balancer.server.requests[0]
    assert request["prompt_ids"] == [1, 2]
    assert request["sampling_params"] == {"temperature": 0.5, "logprobs": True, "max_tokens": 7}
    assert request["priority"] == 6


@CLIENTS
def test_a_server_that_does_not_count_cached_tokens_gives_none(client_class):
    balancer = Balancer(Server(counts_cached=False))  # extra_fields as in verl's async_sglang_server.py
    segment = asyncio.run(extend(make_engine(balancer, client_class), "0"))[0]
    assert segment == Segment([8, 9], [-1.0, -2.0], cached_tokens=None, min_version=4, max_version=4)


def test_vllm_returns_a_result_once_and_decodes_it_for_stop_strings_only():
    once = {"output_kind": RequestOutputKind.FINAL_ONLY}
    assert output_params("vllm", ()) == once | {"detokenize": False}
    assert output_params("vllm", ("\n\n", "Q:")) == once | {"detokenize": True, "stop": ["\n\n", "Q:"]}
    assert output_params("sglang", ("Q:",)) == {}


def test_recorded_calls_name_the_branch_and_are_optional():
    engine = make_engine(Balancer(Server()), record=True)
    asyncio.run(extend(engine, "0", "0.1"))
    assert engine.calls == [
        {"branch": "0", "input_ids": [1, 2], "output_ids": [8, 9]},
        {"branch": "0.1", "input_ids": [1, 2], "output_ids": [8, 9]},
    ]
    engine = make_engine(Balancer(Server()))
    asyncio.run(extend(engine, "0"))
    assert engine.calls == []


def test_an_aborted_request_fails_instead_of_ending_the_path():
    with pytest.raises(EngineError, match="^the engine aborted the request: branch 0.1$"):
        asyncio.run(extend(make_engine(Balancer(Server(stop_reasons=("aborted",)))), "0.1"))


# --- ids and seeds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 171])
def test_independent_loops_are_routed_by_their_child_of_the_root(seed):
    """The rest of a name, such as a later turn, a fallback or another attempt, has no effect on the route."""
    names = {
        "0": ["0", "0+.1.0", "0^1", "0@37", "0!", "0?", "0~3", "0+"],
        "12": ["12", "12~3", "12.0", "12!!"],
        "1": ["1", "1.12"],
    }
    balancer = Balancer(Server())
    engine = make_engine(balancer, spread=True, seed=seed)
    asyncio.run(extend(engine, *(name for group in names.values() for name in group)))
    tree, _, first = balancer.acquired[0].rpartition("-")
    assert first == "0" and tree
    assert balancer.acquired == [f"{tree}-{child}" for child, group in names.items() for _ in group]
    whole = Balancer(Server())
    asyncio.run(extend(make_engine(whole, seed=seed), "0", "12~3", "0!"))
    assert len(set(whole.acquired)) == 1


@CLIENTS
@pytest.mark.parametrize("seed", [None, 171])
def test_requests_of_a_tree_are_routed_by_one_id_and_each_has_a_name_of_its_own(client_class, seed):
    balancer = Balancer(Server())
    asyncio.run(extend(make_engine(balancer, client_class, seed=seed), "0", "1", "1"))
    assert len(set(balancer.acquired)) == 1 and len(balancer.acquired) == 3
    assert len(set(balancer.server.names)) == 3
    assert balancer.released == ["address"] * 3


def test_independent_samples_are_routed_each_on_its_own():
    balancer = Balancer(Server())
    asyncio.run(extend(make_engine(balancer, seed=0xAB, spread=True), "0", "1", "1"))
    assert balancer.acquired == ["tree-ab-0", "tree-ab-1", "tree-ab-1"]


def test_two_trees_are_routed_by_different_ids():
    for seeds in ((None, None), (171, 172)):
        balancer = Balancer(Server())
        for seed in seeds:
            asyncio.run(extend(make_engine(balancer, seed=seed), "0"))
        assert len(set(balancer.acquired)) == 2


def test_without_full_determinism_the_engines_own_randomness_is_used():
    balancer = Balancer(Server())
    asyncio.run(extend(make_engine(balancer), "0"))
    assert "seed" not in balancer.server.requests[0]["sampling_params"]


def test_full_determinism_repeats_ids_and_seeds_and_renames_repeated_requests():
    runs = []
    for _ in range(2):
        balancer = Balancer(Server())
        asyncio.run(extend(make_engine(balancer, seed=0xAB), "0", "0.1", "0"))
        seeds = [request["sampling_params"]["seed"] for request in balancer.server.requests]
        runs.append((balancer.acquired, balancer.server.names, seeds))
    assert runs[0] == runs[1]
    routes, names, seeds = runs[0]
    assert routes == ["tree-ab"] * 3
    assert names == ["tree-ab-0-1", "tree-ab-0.1-1", "tree-ab-0-2"]
    assert seeds[0] == seeds[2] != seeds[1]
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_concurrent_requests_keep_their_own_ids():
    balancer = Balancer(Server())

    async def search():
        engine = make_engine(balancer, seed=5)
        await asyncio.gather(*(engine.extend([1], max_tokens=7, branch=str(number)) for number in range(4)))

    asyncio.run(search())
    got = {request["request_id"]: request["sampling_params"]["seed"] for request in balancer.server.requests}
    assert got == {f"tree-5-{number}-1": derive_seed(5, str(number)) % 2**31 for number in range(4)}


async def extend_together(engine: ServerEngine, count: int) -> None:
    await asyncio.gather(*(engine.extend([1], max_tokens=7, branch=str(number)) for number in range(count)))


def test_requests_of_a_tree_that_are_in_flight_together_share_one_choice_of_a_server():
    balancer = Balancer(Server())

    async def searches():
        client = make_client(balancer)
        engines = [ServerEngine(client, {}, seed=seed, priority=0) for seed in (1, 2)]
        await extend_together(engines[0], 1)  # learns that the balancer reads no field of a request
        await asyncio.gather(*(extend_together(engine, 4) for engine in engines))
        await extend_together(engines[1], 2)
        await asyncio.sleep(0)  # servers are given back in a callback
        assert client.leases == {}

    asyncio.run(searches())
    assert balancer.acquired == ["tree-1", "tree-1", "tree-2", "tree-2"]
    assert len(balancer.released) == 4 and len(balancer.server.requests) == 11


@pytest.mark.parametrize(
    ("client_class", "fields"), [(FullyAsyncLLMServerClient, []), (LLMServerClient, ["prompt_ids"])]
)
def test_each_request_has_its_own_choice_where_servers_come_and_go_or_a_router_reads_it(client_class, fields):
    balancer = Balancer(Server())
    balancer.require_acquire_fields = Remote(lambda: fields)
    balancer.acquire_server = Remote(lambda request_id, prompt_ids=None: balancer._acquire(request_id))

    async def search():
        engine = make_engine(balancer, client_class)
        await extend_together(engine, 1)
        await extend_together(engine, 3)
        await asyncio.sleep(0)

    asyncio.run(search())
    assert len(balancer.acquired) == 4 and len(balancer.released) == 4


def test_a_failed_choice_fails_its_requests_and_a_retry_chooses_again():
    balancer, answers = Balancer(Server()), [RuntimeError("No available servers in load balancer")]

    def choose(request_id: str) -> tuple[str, Server] | None:
        if len(balancer.acquired) == 1 and answers:
            raise answers.pop()
        return balancer._acquire(request_id)

    balancer.acquire_server = Remote(choose)

    async def search():
        engine = make_engine(balancer)
        await extend_together(engine, 1)
        results = await asyncio.gather(
            *(engine.extend([1], max_tokens=7, branch=str(number)) for number in range(2)), return_exceptions=True
        )
        assert [str(result) for result in results] == ["No available servers in load balancer"] * 2
        await extend_together(engine, 2)
        await asyncio.sleep(0)

    asyncio.run(search())
    assert len(balancer.acquired) == 2 and len(balancer.released) == 2


@pytest.mark.parametrize("seed", [None, 171])
def test_a_resumed_request_gets_a_new_id_on_the_same_route(seed, monkeypatch):
    async def at_once(seconds):
        return None

    monkeypatch.setattr(asyncio, "sleep", at_once)  # verl waits a second before it continues
    balancer = Balancer(Server(stop_reasons=("aborted", "aborted", "completed")))
    segment = asyncio.run(extend(make_engine(balancer, FullyAsyncLLMServerClient, seed=seed), "0"))[0]
    assert segment == Segment([8, 9] * 3, [-1.0, -2.0] * 3, cached_tokens=3, min_version=4, max_version=6)
    assert [request["prompt_ids"] for request in balancer.server.requests] == [[1, 2], [1, 2, 8, 9], [1, 2, 8, 9, 8, 9]]
    assert len(set(balancer.server.names)) == 3 and len(set(balancer.acquired)) == 1
    if seed is not None:
        assert balancer.server.names == ["tree-ab-0-1", "tree-ab-0-2", "tree-ab-0-3"]


def test_derived_seeds_depend_on_every_part():
    parts = (0, "train", 1, 2)
    others = [(1, "train", 1, 2), (0, "val", 1, 2), (0, "train", 2, 2), (0, "train", 1, 3)]
    assert len({derive_seed(*parts), *(derive_seed(*other) for other in others)}) == 5
    assert derive_seed(*parts) == 12452216857110762278  # equal in every process


# --- cancellation ----------------------------------------------------------------------------------------------


async def cancel_when(condition: Callable[[], bool], task: asyncio.Task) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def search_with(engine: ServerEngine) -> Coroutine[Any, Any, Tree]:
    """Return a search for two responses of two segments of 4 tokens."""
    stopping = StoppingRules(
        order=(FinishReason.LENGTH, FinishReason.DEPTH),
        eos_token_ids=frozenset(),
        response_length=8,
        depth=2,
        decode=str,
    )
    shape = SearchShape(width=2, segment_length=4, branching=BranchingRules(init_divergence=(2, 2)))
    return grow_tree([1, 2], engine=engine, shape=shape, stopping=stopping, seed=0)


@CLIENTS
def test_a_cancelled_search_cancels_its_remote_calls_and_releases_their_servers(client_class, cancelled):
    balancer = Balancer(Server(answers=False))

    async def search():
        task = asyncio.create_task(search_with(make_engine(balancer, client_class)))
        await cancel_when(lambda: len(balancer.server.requests) == 2, task)

    asyncio.run(search())
    assert len(cancelled) == 2
    assert balancer.released == ["address"] * 2


def own_cancellations() -> list[BaseException]:
    """Return the errors of a remote call that Ray or the server cancelled."""
    of_the_server = RayTaskError("generate", "its traceback", asyncio.CancelledError())
    return [asyncio.CancelledError(), TaskCancelledError(), of_the_server.as_instanceof_cause()]


@CLIENTS
@pytest.mark.parametrize("error", own_cancellations(), ids=lambda error: type(error).__name__)
def test_calls_that_the_search_did_not_cancel_are_failed_requests(client_class, error, cancelled):
    balancer = Balancer(Server(answers=False))

    async def search():
        task = asyncio.create_task(search_with(make_engine(balancer, client_class)))
        failed = 0
        while not task.done():
            for call in balancer.server.generate.calls[failed:]:
                call.cancel() if type(error) is asyncio.CancelledError else call.set_exception(error)
                failed += 1
            await asyncio.sleep(0)
        return task, failed

    task, failed = asyncio.run(search())
    assert not task.cancelled()
    with pytest.raises(SearchError, match=f"no trajectory: {failed} of {failed} requests failed, all alike: "):
        task.result()
    assert len(balancer.released) == len(balancer.acquired) and failed > 2


@CLIENTS
@pytest.mark.parametrize(
    ("token_ids", "log_probs", "reason"),
    [
        ([8] * 9, [-1.0] * 9, "the engine ignored max_tokens: it returned 9 tokens instead of at most 8"),
        ([8], [float("nan")], "the engine returned a log-probability that is not a finite number: nan for token 0"),
        ([8], None, "the engine returned a wrong number of log-probabilities: 0, tokens: 1"),
        ([], None, "the engine returned no token"),
    ],
)
def test_results_of_servers_that_violate_the_protocol_are_failed_requests(client_class, token_ids, log_probs, reason):
    class Wrong(Server):
        def _generate(self, **request: Any) -> TokenOutput:
            super()._generate(**request)
            return TokenOutput(token_ids=token_ids, log_probs=log_probs, num_preempted=0)

    balancer = Balancer(Wrong())
    with pytest.raises(SearchError, match=f"requests failed, all alike: {reason}$"):
        asyncio.run(search_with(make_engine(balancer, client_class)))
    assert len(balancer.released) == len(balancer.acquired) and len(balancer.server.requests) > 2


def test_the_call_that_was_given_up_is_the_one_that_is_cancelled(cancelled):
    server = Server(answers=False)

    async def give_one_up():
        async def call(name: str) -> Any:
            return await CancellableServer(server).generate.remote(request_id=name)

        given_up, kept = (asyncio.create_task(call(name)) for name in "ab")
        await cancel_when(lambda: server.names == ["a", "b"], given_up)
        server.generate.calls[1].set_result("answer")
        assert await kept == "answer"

    asyncio.run(give_one_up())
    assert cancelled == [server.generate.calls[0]]


def test_a_call_that_is_answered_or_fails_by_itself_is_not_cancelled(cancelled):
    server = Server(answers=False)

    async def fail():
        call = asyncio.ensure_future(CancellableServer(server).generate.remote(request_id="a"))
        server.generate.calls[0].set_exception(ConnectionError("the server died"))
        await call

    asyncio.run(extend(make_engine(Balancer(Server())), "0"))
    with pytest.raises(ConnectionError, match="the server died"):
        asyncio.run(fail())
    assert cancelled == []


def test_a_call_starts_when_it_is_made_not_when_it_is_awaited():
    server = Server()

    async def start():
        call = CancellableServer(server).generate.remote(request_id="a")
        started = server.names
        await call
        return started

    assert asyncio.run(start()) == ["a"]


@CLIENTS
def test_a_server_that_is_chosen_after_the_request_was_given_up_is_released(client_class, cancelled):
    balancer = Balancer(Server(), chooses=False)

    async def give_up():
        task = asyncio.create_task(make_engine(balancer, client_class).extend([1], max_tokens=7, branch="0"))
        await cancel_when(lambda: len(balancer.acquired) == 1, task)
        assert balancer.released == []
        balancer.acquire_server.calls[0].set_result(("address", balancer.server))
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(give_up())
    assert balancer.released == ["address"]
    assert balancer.server.requests == [] and cancelled == []


def test_a_failed_choice_after_a_cancelled_request_releases_nothing(cancelled):
    balancer = Balancer(Server(), chooses=False)
    reported: list[dict] = []

    async def give_up():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        task = asyncio.create_task(make_engine(balancer).extend([1], max_tokens=7, branch="0"))
        await cancel_when(lambda: len(balancer.acquired) == 1, task)
        balancer.acquire_server.calls[0].set_exception(RuntimeError("No available servers in load balancer"))
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(give_up())
    assert balancer.released == reported == []


def test_everything_but_generate_is_the_handles_own():
    server = Server()
    assert CancellableServer(server).requests is server.requests


def test_verls_own_client_is_left_as_it_is():
    balancer = Balancer(Server())
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm", "full_determinism": True}}})
    plain = LLMServerClient(config, balancer)
    tree_client(plain)
    asyncio.run(plain.generate("det-4", prompt_ids=[1], sampling_params={}))
    assert type(plain) is LLMServerClient
    assert balancer.acquired == balancer.server.names == ["det-4"]
