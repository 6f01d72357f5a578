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
from recipe.treepo.verl_adapters.server_engine import ServerEngine, tree_client


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
        self.complete += final.outputs[0].finish_reason == "length"
        return TokenOutput(token_ids=final.outputs[0].token_ids)

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
    engine = ServerEngine(
        tree_client(OneServer(server)), {"temperature": 0.0}, seed=None, priority=0, stop_strings=("=",)
    )
    segment = asyncio.run(engine.extend(prompt, max_tokens=200, branch="0"))
    text = tokenizer.decode(segment.token_ids)
    assert text.count("=") == 1 and len(segment.token_ids) < 200
    assert "=" in tokenizer.decode(segment.token_ids[-1:])
