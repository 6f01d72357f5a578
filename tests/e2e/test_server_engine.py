# SPDX-License-Identifier: Apache-2.0
"""Server engine with real Ray, verl's client and a vLLM engine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import ray
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from helpers.training_run import ROOT
from recipe.treepo.search.engine import Segment
from recipe.treepo.verl_adapters.server_engine import ServerEngine, output_params, tree_client


@ray.remote
class Server:
    """Request handling of verl's vLLM server (``vllm_async_server.py``, ``generate``)."""

    def __init__(self, model: str) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(model=model, dtype="float32", max_model_len=2048, enforce_eager=True, block_size=32)
        )
        # Counts of all requests so far: started decoding; ended; decoded to the last token.
        self.begun = self.over = self.complete = 0

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict, **_) -> TokenOutput:
        from vllm import SamplingParams, TokensPrompt

        sampling_params["logprobs"] = 0
        params = SamplingParams(ignore_eos=True, **sampling_params)
        prompt = TokensPrompt(prompt_token_ids=prompt_ids)
        final = None
        try:
            async for output in self.engine.generate(prompt, params, request_id=request_id):
                self.begun += final is None
                final = output
        finally:
            self.over += 1
        [result] = final.outputs
        self.complete += result.finish_reason == "length"
        return TokenOutput(
            token_ids=list(result.token_ids),
            log_probs=[entry[token].logprob for entry, token in zip(result.logprobs, result.token_ids, strict=True)],
            stop_reason=result.finish_reason,
        )

    async def decoded(self, request_id: str) -> list[int]:
        """Return the tokens of a running request so far."""
        states = self.engine.output_processor.request_states.values()
        found = [state for state in states if state.external_req_id == request_id]
        return list(found[0].detokenizer.output_token_ids) if found else []

    async def abort_all(self) -> None:
        """Abort as verl's ``abort_all_requests`` does before a weight update."""
        await self.engine.pause_generation(wait_for_inflight_requests=False, clear_cache=True)
        await self.engine.resume_generation()

    async def counts(self) -> tuple[int, int, int]:
        return self.begun, self.over, self.complete

    async def running(self) -> int:
        return len(self.engine.output_processor.request_states)


class OneServer(LLMServerClient):
    """Client of verl without a load balancer."""

    def __init__(self, server: ray.actor.ActorHandle) -> None:
        super().__init__(OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm"}}}))
        self.server = server

    async def _acquire_server(self, request_id, **extra):
        return "0", self.server

    def _release_server(self, server_id, request_id=None):
        pass


@pytest.fixture(scope="module")
def server():
    # Values of recipe.treepo.verl_adapters.cpu.platform for verl's servers.
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
    ray.init(num_cpus=4, num_gpus=0, include_dashboard=False, runtime_env={"env_vars": variables})
    yield Server.remote(str(ROOT / "tiny/model"))
    ray.shutdown()


async def decoded_after_cancelling(client: LLMServerClient, server: ray.actor.ActorHandle, tokens: int) -> int:
    """Cancel four requests during decoding; return the number decoded to their last token."""
    begun, over, complete = await server.counts.remote()
    engine = ServerEngine(client, {"temperature": 1.0}, seed=None, priority=0)
    tasks = [asyncio.create_task(engine.extend([5, 6, 7], max_tokens=tokens, branch=str(n))) for n in range(4)]
    await until(lambda: server.counts.remote(), lambda counts: counts[0] == begun + 4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: server.counts.remote(), lambda counts: counts[1] == over + 4)
    await until(lambda: server.running.remote(), lambda running: running == 0)
    return (await server.counts.remote())[2] - complete


async def until(ask: Callable[[], Awaitable[Any]], is_so: Callable[[Any], bool]) -> None:
    """Poll a condition, with a limit for requests that never end."""
    async with asyncio.timeout(1800):
        while not is_so(await ask()):
            await asyncio.sleep(0.02)


def test_cancelled_requests_end_on_the_server_and_with_verls_client_they_do_not(server):
    assert asyncio.run(decoded_after_cancelling(OneServer(server), server, tokens=500)) == 4
    # Four times as many tokens, so that no request completes before it is cancelled.
    assert asyncio.run(decoded_after_cancelling(tree_client(OneServer(server)), server, tokens=2000)) == 0


def test_a_stop_string_ends_a_request_and_its_tokens_come_back(server):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tiny/model")
    messages = [{"role": "user", "content": "Tom has 4 pens. Tom buys 3 pens. How many pens does Tom have?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    params = {"temperature": 0.0, **output_params("vllm", ("=",))}
    engine = ServerEngine(tree_client(OneServer(server)), params, seed=None, priority=0)
    segment = asyncio.run(engine.extend(prompt, max_tokens=200, branch="0"))
    text = tokenizer.decode(segment.token_ids)
    assert text.count("=") == 1 and len(segment.token_ids) < 200
    assert "=" in tokenizer.decode(segment.token_ids[-1:])


@pytest.mark.parametrize("params", [{}, output_params("vllm", ()), output_params("vllm", ("never",))])
def test_results_that_come_once_are_those_of_verls_sampler(server, params):
    client = tree_client(OneServer(server))

    async def generate(own: dict[str, Any]) -> Segment:
        return await ServerEngine(client, {"temperature": 0.0, **own}, seed=None, priority=0).extend(
            [5, 6, 7], max_tokens=60, branch="0"
        )

    async def both() -> tuple[Segment, Segment]:
        return await generate({}), await generate(params)

    streamed, once = asyncio.run(both())
    assert once.token_ids == streamed.token_ids and len(once.token_ids) == 60
    assert once.logprobs == pytest.approx(streamed.logprobs, abs=1e-4)


def test_an_aborted_request_returns_the_tokens_so_far_though_results_come_once(server):
    params = {"temperature": 1.0, "max_tokens": 1900, **output_params("vllm", ())}

    async def aborted() -> tuple[TokenOutput, list[int]]:
        over = (await server.counts.remote())[1]
        task = server.generate.remote("to_abort", [5, 6, 7], dict(params))
        await until(lambda: server.decoded.remote("to_abort"), lambda tokens: len(tokens) > 20)
        decoded = await server.decoded.remote("to_abort")
        await server.abort_all.remote()
        output = await task
        assert (await server.counts.remote())[1] == over + 1
        return output, decoded

    output, decoded = asyncio.run(aborted())
    assert output.stop_reason == "abort"
    assert output.token_ids[: len(decoded)] == decoded
    assert len(output.log_probs) == len(output.token_ids) < 1900
