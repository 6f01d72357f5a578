# SPDX-License-Identifier: Apache-2.0
"""The adapter between search and verl, with verl's client and base worker replaced by recorders."""

import asyncio
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from verl.workers.rollout.replica import TokenOutput

from recipe.treepo import rollout
from recipe.treepo.engine import Segment
from recipe.treepo.rollout import ServerEngine, TreeAgentLoopWorker, TreeJob, derive_seed, eos_token_ids
from recipe.treepo.settings import ConfigError, TreePOSettings
from recipe.treepo.stopping import FinishReason
from recipe.treepo.tree import ROOT, Tree

Worker = TreeAgentLoopWorker.__ray_metadata__.modified_class
Base = Worker.__mro__[1]


class RecordingClient:
    """Answers every request with two tokens and keeps what it was asked."""

    def __init__(self, stop_reason: str = "completed") -> None:
        self.requests = []
        self.stop_reason = stop_reason

    async def generate(self, request_id, *, prompt_ids, sampling_params, priority):
        self.requests.append((request_id, prompt_ids, sampling_params, priority))
        fields = {"num_cached_tokens": 3, "min_global_steps": 4, "max_global_steps": 5}
        return TokenOutput(token_ids=[8, 9], log_probs=[-1.0, -2.0], stop_reason=self.stop_reason, extra_fields=fields)


def extend_twice(engine: ServerEngine) -> list[Segment]:
    async def both():
        return [await engine.extend([1, 2], max_tokens=7, node=node) for node in (1, 2)]

    return asyncio.run(both())


def test_all_requests_of_a_tree_go_to_one_replica_with_the_engines_own_randomness():
    client = RecordingClient()
    engine = ServerEngine(client, {"temperature": 0.5, "stop_token_ids": [3]}, seed=None, priority=6, record=True)
    first, _ = extend_twice(engine)
    assert first == Segment([8, 9], [-1.0, -2.0], cached_tokens=3, min_version=4, max_version=5)
    ids = {request_id for request_id, *_ in client.requests}
    assert len(ids) == 1
    params = {"temperature": 0.5, "stop_token_ids": [3], "logprobs": True, "max_tokens": 7}
    assert [request[1:] for request in client.requests] == [([1, 2], params, 6)] * 2
    assert [(call["node"], call["input_ids"], call["output_ids"]) for call in engine.calls] == [
        (1, [1, 2], [8, 9]),
        (2, [1, 2], [8, 9]),
    ]


def test_with_full_determinism_every_branch_has_its_own_id_and_seed_and_two_runs_the_same():
    runs = []
    for _ in range(2):
        client = RecordingClient()
        extend_twice(ServerEngine(client, {}, seed=derive_seed(0, 1, "q", [1]), priority=0))
        runs.append([(request_id, params["seed"]) for request_id, _, params, _ in client.requests])
    assert runs[0] == runs[1]
    (first_id, first_seed), (second_id, second_seed) = runs[0]
    assert first_id != second_id and first_seed != second_seed
    assert 0 <= min(first_seed, second_seed) and max(first_seed, second_seed) < 2**31
    assert derive_seed(0, 1, "q", [1]) != derive_seed(0, 2, "q", [1])


def test_an_aborted_request_fails_the_path_instead_of_ending_it():
    with pytest.raises(RuntimeError, match="aborted"):
        extend_twice(ServerEngine(RecordingClient("aborted"), {}, seed=None, priority=0))


def test_end_tokens_are_gathered_from_tokenizer_config_and_generation_config():
    model = SimpleNamespace(
        tokenizer=SimpleNamespace(eos_token_id=5),
        hf_config=SimpleNamespace(eos_token_id=None),
        generation_config=SimpleNamespace(eos_token_id=[5, 7]),
    )
    assert eos_token_ids(model) == {5, 7}
    model.generation_config, model.hf_config = None, SimpleNamespace(eos_token_id=9)
    assert eos_token_ids(model) == {5, 9}


@pytest.fixture
def worker(monkeypatch):
    """A worker without verl's start-up, whose base class records what reaches it."""
    instance = object.__new__(Worker)
    instance.settings = TreePOSettings()
    instance.eos_token_ids = frozenset({5})
    instance.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"n": 4, "val_kwargs": {"n": 2}}}})
    instance.prompts, instance.stored = [], []

    async def run_prompt(self, prompt, sampling_params, trajectory, trace=False):
        self.prompts.append(prompt)

    async def postprocess(self, output, validate, **kwargs):
        self.stored.append((output, kwargs))

    monkeypatch.setattr(Base, "_run_prompt", run_prompt)
    monkeypatch.setattr(Base, "_agent_loop_postprocess", postprocess)
    return instance


def sent(worker, *, validate=False, **fields) -> dict:
    prompt = {"uid": "u", "agent_name": "single_turn_agent", **fields}
    asyncio.run(worker._run_prompt(prompt, {}, {"validate": validate}))
    return worker.prompts[-1]


def test_a_training_prompt_becomes_one_session_that_searches_a_tree_of_width_n(worker):
    prompt = sent(worker)
    assert prompt["__rollout_n__"] == 1
    assert prompt["agent_name"] == rollout.TREE_AGENT
    job = prompt["tree_job"]
    assert (job.width, job.replaced_agent, job.eos_token_ids) == (4, "single_turn_agent", {5})
    assert sent(worker, __rollout_n__=3)["tree_job"].width == 3


def test_validation_greedy_baselines_and_the_plain_sampler_are_left_to_verl(worker):
    plain = {"uid": "u", "agent_name": "single_turn_agent"}
    assert sent(worker, validate=True) == plain
    assert sent(worker, __do_sample__=False) == {**plain, "__do_sample__": False}
    worker.settings = TreePOSettings(validate_with_tree=True)
    assert sent(worker, validate=True)["tree_job"].width == 2
    worker.settings = TreePOSettings(sampler="plain")
    assert sent(worker) == plain


def test_every_trajectory_is_scored_and_stored_as_a_session_of_its_own(worker):
    job = TreeJob(width=3, settings=worker.settings, eos_token_ids=frozenset(), replaced_agent="single_turn_agent")
    asyncio.run(worker._agent_loop_postprocess(["a", "b", "c"], False, tree_job=job, session_id=0, uid="u"))
    assert worker.stored == [(name, {"session_id": rank, "uid": "u"}) for rank, name in enumerate("abc")]
    worker.stored.clear()
    asyncio.run(worker._agent_loop_postprocess("plain", True, session_id=5, uid="u"))
    assert worker.stored == [("plain", {"session_id": 5, "uid": "u"})]


def test_a_trajectory_that_cannot_be_stored_fails_the_prompt_after_the_others_have_settled(worker, monkeypatch):
    settled = []

    async def postprocess(self, output, validate, **kwargs):
        await asyncio.sleep(0.01 if output != "bad" else 0)
        if output == "bad":
            raise ConnectionError("no reward worker")
        settled.append(output)

    monkeypatch.setattr(Base, "_agent_loop_postprocess", postprocess)
    job = TreeJob(width=3, settings=worker.settings, eos_token_ids=frozenset(), replaced_agent="single_turn_agent")
    with pytest.raises(ConnectionError, match="no reward worker"):
        asyncio.run(worker._agent_loop_postprocess(["a", "bad", "c"], False, tree_job=job, session_id=0, uid="u"))
    assert settled == ["a", "c"]


def test_a_trajectory_carries_tokens_logprobs_versions_and_its_path():
    tree = Tree([1, 2])
    tree.add(ROOT, Segment([3, 4], [-0.5, -0.25], min_version=6, max_version=6))
    tree.add(1, Segment([5], [-1.0], min_version=6, max_version=7))
    tree.finish(2, FinishReason.EOS)
    output = rollout._trajectory(tree, 2, {"engine_calls": 2})
    assert (output.prompt_ids, output.response_ids, output.response_mask) == ([1, 2], [3, 4, 5], [1, 1, 1])
    assert output.response_logprobs == [-0.5, -0.25, -1.0]
    fields = output.extra_fields
    assert (fields["min_global_steps"], fields["max_global_steps"]) == (6, 7)
    assert fields["tree_path"] == [(1, 0), (2, 2)]
    assert fields["tree_finish_reason"] == "eos"


def test_agents_that_trees_cannot_take_the_place_of_are_refused_inside_verls_error_handling():
    loop = object.__new__(rollout.TreeAgentLoop)
    job = TreeJob(width=2, settings=TreePOSettings(), eos_token_ids=frozenset(), replaced_agent="tool_agent")
    with pytest.raises(ValueError, match="agent_name=tool_agent"):
        asyncio.run(loop.run({}, tree_job=job, raw_prompt=[], global_steps=1))


def test_the_manager_refuses_trees_that_do_not_fit_before_it_starts_workers(monkeypatch):
    config = OmegaConf.create(
        {
            "treepo": {"init_divergence": 9},
            "actor_rollout_ref": {
                "rollout": {"n": 4, "prompt_length": 9, "response_length": 70, "temperature": 1.0, "val_kwargs": {}}
            },
        }
    )
    monkeypatch.setattr(rollout.AgentLoopManagerTQ, "__init__", lambda self, config: setattr(self, "config", config))
    with pytest.raises(ConfigError, match="init_divergence"):
        rollout.TreeAgentLoopManager(config)
