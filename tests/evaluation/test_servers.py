# SPDX-License-Identifier: Apache-2.0
"""Requests of an evaluation to verl's servers; a recorder replaces the client."""

import asyncio
from types import SimpleNamespace

import pytest
from vllm.sampling_params import RequestOutputKind

from helpers.composition import composed
from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.servers import Servers
from recipe.treepo.evaluation.settings import Run
from recipe.treepo.settings.schema import Sampler, TreePOSettings

TREE = Run("tree", TreePOSettings(stop_strings=("###",)), 2)
PLAIN = Run("plain", TreePOSettings(sampler=Sampler.PLAIN, stop_strings=("###",)), 2)
PROBLEM = EvaluationProblem(data_source="a", row=0, prompt_ids=[1], fields={})


def requests_of(run: Run, problem: EvaluationProblem, seed: int | None, *overrides: str) -> list[SimpleNamespace]:
    """Return the requests for the branches 0, 1 and 0.0 of a problem."""
    sampling = "actor_rollout_ref.rollout.val_kwargs"
    own = [f"{sampling}.temperature=0.6", f"{sampling}.top_p=0.9", f"{sampling}.top_k=50"]
    config = composed("platform=cpu", "preset=tiny", *own, *overrides)
    requests = []

    class Client:
        async def generate(self, **arguments):
            requests.append(SimpleNamespace(**arguments))
            return SimpleNamespace(token_ids=[7], log_probs=[-0.1], stop_reason="completed", extra_fields={})

    servers = Servers(config, frozenset({9, 5}))
    servers.client = Client()
    engine = servers.engine(run, problem, seed)
    for branch in ("0", "1", "0.0"):
        asyncio.run(engine.extend([1, 2], max_tokens=3, branch=branch))
    return requests


def test_requests_have_the_sampling_of_a_validation_and_all_end_tokens():
    request = requests_of(TREE, PROBLEM, None)[0]
    assert request.prompt_ids == [1, 2]
    assert request.sampling_params == {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 50,
        "repetition_penalty": 1.0,
        "stop_token_ids": [5, 9],
        "stop": ["###"],
        "detokenize": True,
        "output_kind": RequestOutputKind.FINAL_ONLY,
        "logprobs": True,
        "max_tokens": 3,
    }


def test_plain_samples_have_no_stop_strings_and_a_route_each():
    plain, tree = requests_of(PLAIN, PROBLEM, 0), requests_of(TREE, PROBLEM, 0)
    assert all("stop" not in request.sampling_params for request in plain)
    assert not any(request.sampling_params["detokenize"] for request in plain)
    routes = [[request.request_id for request in requests] for requests in (plain, tree)]
    # branch 0.0 continues branch 0
    assert [[ids.index(name) for name in ids] for ids in routes] == [[0, 1, 0], [0, 0, 0]]


def test_servers_other_than_vllm_get_no_stop_strings():
    assert "stop" not in requests_of(TREE, PROBLEM, 0, "actor_rollout_ref.rollout.name=sglang")[0].sampling_params


@pytest.mark.parametrize("seed", [0, None])
def test_seeds_differ_between_branches_problems_and_runs_and_are_the_same_again(seed):
    def seeds(run=TREE, problem=PROBLEM):
        return [request.sampling_params.get("seed") for request in requests_of(run, problem, seed)]

    if seed is None:
        assert seeds() == [None] * 3
        return
    other = EvaluationProblem(data_source="a", row=1, prompt_ids=[1], fields={})
    assert seeds() == seeds()
    assert len({*seeds(), *seeds(PLAIN), *seeds(problem=other)}) == 9
