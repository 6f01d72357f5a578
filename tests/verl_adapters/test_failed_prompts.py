# SPDX-License-Identifier: Apache-2.0
"""Reports of failed prompts by verl's own worker: the first of each kind in full, later ones on one line."""

import asyncio
import logging

import pytest
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from helpers.composition import composed
from helpers.paths import ROOT
from recipe.treepo.search import SearchError
from recipe.treepo.search.engine import EngineError
from recipe.treepo.verl_adapters import failed_prompts
from recipe.treepo.verl_adapters import worker as worker_module
from recipe.treepo.verl_adapters.failed_prompts import RepeatedFailures
from recipe.treepo.verl_adapters.worker import TreeAgentLoopWorker

Worker = TreeAgentLoopWorker.__ray_metadata__.modified_class
TOO_LONG = EngineError("the engine ignored max_tokens: it returned 5 tokens instead of at most 4")
DEAD = ConnectionError("the engine went away")


def no_trajectory(cause: Exception) -> SearchError:
    error = SearchError(f"the prompt got no trajectory: {cause}")
    error.__cause__ = cause
    return error


@pytest.fixture
def worker(monkeypatch):
    """A worker with a fresh filter, and without Ray and TransferQueue. The uids of its prompts are their errors."""

    async def put(**arguments):
        return None

    async def no_cache(*arguments):
        return None

    async def loop(self, sampling_params, *, uid, **arguments):
        raise uid

    monkeypatch.setattr(agent_loop_tq.tq, "init", lambda: None)
    monkeypatch.setattr(agent_loop_tq.tq, "async_kv_put", put)
    monkeypatch.setattr(Worker, "_run_agent_loop", loop)
    monkeypatch.setattr(worker_module, "prefix_cache_of", no_cache)
    fresh = RepeatedFailures()
    monkeypatch.setattr(failed_prompts, "_REPEATED", fresh)
    config = composed("platform=cpu", "preset=tiny", f"actor_rollout_ref.model.path={ROOT / 'tiny/model'}")
    yield Worker(config, FullyAsyncLLMServerClient(config=None))
    agent_loop_tq.logger.removeFilter(fresh)


def test_a_step_of_prompts_that_fail_alike_is_reported_in_full_once_then_counted(worker, caplog):
    errors = [no_trajectory(cause) for cause in (TOO_LONG, DEAD, TOO_LONG, TOO_LONG, DEAD)]
    prompt = {"tree_number": 0, "agent_name": "single_turn_agent", "global_steps": 1}

    async def step():
        for error in [*errors, ValueError("another"), ValueError("another")]:
            await worker._run_prompt({**prompt, "uid": error}, {}, {"validate": False})

    with caplog.at_level(logging.ERROR):
        asyncio.run(step())
    in_full = [entry.exc_info is not None for entry in caplog.records]
    assert in_full == [True, True, False, False, False, True, True]
    assert all(entry.getMessage().startswith("Error in _run_prompt for uid=") for entry in caplog.records)
    endings = [entry.getMessage().partition(": no trajectory, ")[2] for entry in caplog.records]
    assert endings == [
        *("", ""),
        "as in an earlier report (the engine ignored max_tokens, 2 prompts)",
        "as in an earlier report (the engine ignored max_tokens, 3 prompts)",
        "as in an earlier report (ConnectionError, 2 prompts)",
        *("", ""),
    ]
    assert caplog.text.count("Traceback (most recent call last)") == 4
