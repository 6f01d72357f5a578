# SPDX-License-Identifier: Apache-2.0
"""verl's worker and manager with trees: searched prompts, their requests, and stored trajectories.

Worker and manager are constructed from the composed configuration with the tiny model. Recorders replace two methods of
verl's worker.
"""

import asyncio
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.utils import tensordict_utils
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from helpers.agent_loops import tree_request
from helpers.composition import composed
from helpers.paths import ROOT
from recipe.treepo.answers.thinking import Thinking
from recipe.treepo.interaction import Interaction
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters import worker as worker_module
from recipe.treepo.verl_adapters.agent_loop import TREE_AGENT
from recipe.treepo.verl_adapters.prefix_cache import PrefixCache
from recipe.treepo.verl_adapters.server_engine import TreeClient
from recipe.treepo.verl_adapters.worker import TreeAgentLoopManager, TreeAgentLoopWorker, training_progress

Worker = TreeAgentLoopWorker.__ray_metadata__.modified_class
VerlWorker = Worker.__mro__[1]
MODEL = ROOT / "tiny/model"


@cache
def base_config() -> DictConfig:
    rollout = "actor_rollout_ref.rollout"
    return composed(
        *("platform=cpu", "preset=tiny", f"actor_rollout_ref.model.path={MODEL}"),
        *(f"{rollout}.n=4", f"{rollout}.val_kwargs.n=2", f"{rollout}.seed=7"),
        "trainer.total_training_steps=11",
    )


def make_config(**treepo: Any) -> DictConfig:
    """Return a configuration of 4 trajectories (2 in validation), 11 steps and the given settings of the recipe."""
    config = base_config().copy()
    config.treepo = OmegaConf.create({"depth": 3, **treepo})
    return config


async def cache_of(client, rollout_name):
    """Answer for a server with blocks of 16 tokens."""
    return PrefixCache(enabled=True, block=16)


class Recorded:
    """Calls that reach verl's own worker: prompts to run, outputs to store."""

    def __init__(self) -> None:
        self.prompts: list[dict[str, Any]] = []
        self.stored: list[tuple[Any, dict[str, Any]]] = []


@pytest.fixture
def recorded(monkeypatch) -> Recorded:
    found = Recorded()

    async def run_prompt(self, prompt, sampling_params, trajectory, trace=False):
        found.prompts.append(prompt)

    async def postprocess(self, output, validate, **kwargs):
        found.stored.append((output, kwargs))

    monkeypatch.setattr(VerlWorker, "_run_prompt", run_prompt)
    monkeypatch.setattr(VerlWorker, "_agent_loop_postprocess", postprocess)
    monkeypatch.setattr(agent_loop_tq.tq, "init", lambda: None)  # there is no Ray
    monkeypatch.setattr(worker_module, "prefix_cache_of", cache_of)
    return found


@pytest.fixture
def make_worker(recorded):
    """Function from settings of the recipe to a worker."""

    def make(**treepo: Any) -> Any:
        return Worker(make_config(**treepo), FullyAsyncLLMServerClient(config=None))

    return make


@pytest.fixture
def talk(tmp_path) -> dict[str, str]:
    """Settings of an interaction in a user's file."""
    lines = ["from recipe.treepo.interaction import Interaction", "class Talk(Interaction):", "    pass"]
    (tmp_path / "talk.py").write_text("\n".join(lines))
    return {"path": str(tmp_path / "talk.py"), "name": "Talk"}


PLAIN = {"uid": "u", "agent_name": "single_turn_agent", "global_steps": 6}


@pytest.fixture
def sent(recorded):
    """Function that passes a prompt to a worker and returns the prompt that reaches verl's own worker."""

    def send(worker, *, validate=False, number=0, **fields) -> dict:
        prompt = {**PLAIN, "tree_number": np.int64(number), **fields}
        asyncio.run(worker._run_prompt(prompt, {}, {"validate": validate}))
        return recorded.prompts[-1]

    return send


# --- requests --------------------------------------------------------------------------------------------------


def test_a_training_prompt_becomes_one_session_with_a_tree_of_width_n(make_worker, sent):
    worker = make_worker()
    prompt = sent(worker, number=3)
    request = prompt.pop("tree_request")
    assert prompt == {**PLAIN, "__rollout_n__": 1, "agent_name": TREE_AGENT}
    assert (request.width, request.replaced_agent, request.validate) == (4, "single_turn_agent", False)
    assert (request.independent, request.interaction) == (False, None)
    assert request.settings == worker.settings.with_cache_block(16) and request.settings.cache_block == 16
    assert request.progress == 0.5  # step 6 of 11
    assert request.seed == derive_seed(7, "train", 6, 3)
    assert request.client is worker.tree_client
    assert sent(worker, __rollout_n__=3)["tree_request"].width == 3


def test_end_tokens_are_the_models_or_none_if_they_are_ignored(recorded):
    config = make_config()
    worker = Worker(config, FullyAsyncLLMServerClient(config=None))
    assert worker.eos_token_ids == set(worker.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    config.actor_rollout_ref.rollout.ignore_eos = True
    assert Worker(config, FullyAsyncLLMServerClient(config=None)).eos_token_ids == frozenset()


def test_the_client_of_trees_is_a_copy_of_the_workers_own(make_worker):
    worker = make_worker()
    assert type(worker.llm_client) is FullyAsyncLLMServerClient
    assert isinstance(worker.tree_client, TreeClient) and isinstance(worker.tree_client, FullyAsyncLLMServerClient)


def test_a_worker_loads_the_interaction_that_is_named(make_worker, talk):
    assert make_worker().interaction is None
    found = make_worker(interaction=talk).interaction
    assert issubclass(found, Interaction) and found.__name__ == "Talk"


VERLS = "verl's own"


@pytest.mark.parametrize(
    ("sampler", "talks", "validate_with_tree", "expected"),
    # ``expected``: samplers of a training prompt, a greedy baseline and a validation prompt
    [
        ("tree", False, False, ("tree", VERLS, VERLS)),
        ("tree", False, True, ("tree", VERLS, "tree")),
        ("tree", True, False, ("tree", "loops", "loops")),
        ("tree", True, True, ("tree", "loops", "tree")),
        ("independent", False, False, ("loops", "loops", VERLS)),
        ("independent", False, True, ("loops", "loops", VERLS)),
        ("independent", True, False, ("loops", "loops", "loops")),
        ("independent", True, True, ("loops", "loops", "loops")),
        ("plain", False, False, (VERLS, VERLS, VERLS)),
        ("plain", False, True, (VERLS, VERLS, VERLS)),
    ],
)
def test_every_prompt_goes_to_its_sampler(make_worker, sent, talk, sampler, talks, validate_with_tree, expected):
    own = {"interaction": talk} if talks else {}
    worker = make_worker(sampler=sampler, validate_with_tree=validate_with_tree, **own)
    kinds = [{}, {"__do_sample__": False, "__rollout_n__": 1}, {"validate": True}]
    for agent in ("single_turn_agent", "tool_agent"):
        found = []
        for kind, width in zip(kinds, (4, 1, 2), strict=True):
            prompt = sent(worker, number=3, **{**kind, "agent_name": agent})
            request = prompt.get("tree_request")
            if request is None:
                fields = {key: kind[key] for key in kind if key != "validate"}
                assert prompt == {**PLAIN, "agent_name": agent, **fields}
                found.append(VERLS)
                continue
            # verl reads greedy sampling from the prompt
            assert prompt.get("__do_sample__") == kind.get("__do_sample__")
            assert (prompt["agent_name"], prompt["__rollout_n__"]) == (TREE_AGENT, 1)
            assert (request.width, request.replaced_agent) == (width, agent)
            assert request.interaction is worker.interaction
            assert request.validate == ("validate" in kind)
            assert request.seed == derive_seed(7, "val" if request.validate else "train", 6, 3)
            found.append("loops" if request.independent else "tree")
        assert tuple(found) == expected


# --- numbers, seeds and progress -------------------------------------------------------------------------------


@pytest.fixture
def dispatch(recorded, monkeypatch):
    """Function that sends batches of equal prompts through manager and worker, and returns verl's prompts."""
    chunks: list[Any] = []
    monkeypatch.setattr(agent_loop_tq.ray, "get", list)

    def send(worker, batches: list[tuple[bool, int, int]], workers: int = 2) -> list[dict]:
        """Send ``batches``, each with validate, step and size."""
        manager = TreeAgentLoopManager(make_config(), worker.llm_client)
        remote = SimpleNamespace(generate_sequences=SimpleNamespace(remote=chunks.append))
        manager.agent_loop_workers = [remote] * workers
        recorded.prompts.clear()

        async def run() -> None:
            for validate, step, size in batches:
                uids = np.array([f"u{row}" for row in range(size)], dtype=object)
                rows = {"uid": uids, "index": np.array([0] * size, dtype=object)}
                batch = tensordict_utils.get_tensordict(rows)
                tensordict_utils.assign_non_tensor_data(batch, "global_steps", step)
                if validate:
                    tensordict_utils.assign_non_tensor_data(batch, "validate", True)
                chunks.clear()
                manager.generate_sequences(batch)
                for chunk in chunks:
                    await worker.generate_sequences(chunk)
            await asyncio.gather(*worker.background_tasks)

        asyncio.run(run())
        return list(recorded.prompts)

    return send


def test_equal_prompts_get_different_seeds_and_two_runs_the_same(make_worker, dispatch):
    worker = make_worker(validate_with_tree=True)
    batches = [(True, 0, 3), (False, 1, 4), (False, 1, 1), (True, 1, 3), (False, 1, 2), (False, 2, 4)]
    runs = [[row["tree_request"].seed for row in dispatch(worker, batches)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == sum(size for *_, size in batches)
    numbers = {"val": [range(3), range(3)], "train": [range(7), range(4)]}
    assert set(runs[0]) == {
        derive_seed(7, phase, step, number)
        for phase, steps in (("val", (0, 1)), ("train", (1, 2)))
        for step, expected in zip(steps, numbers[phase], strict=True)
        for number in expected
    }


def test_the_number_of_a_prompt_does_not_depend_on_the_number_of_workers(make_worker, dispatch):
    worker = make_worker()
    one, three = (
        [(row["uid"], row["tree_request"].seed) for row in dispatch(worker, [(False, 1, 6)], workers)]
        for workers in (1, 3)
    )
    assert one == three


def test_verls_own_loops_never_see_the_number(make_worker, dispatch):
    rows = dispatch(make_worker(sampler="plain"), [(False, 1, 2), (True, 1, 1)])
    assert [set(row) for row in rows] == [{"uid", "index", "global_steps", "agent_name"}] * 3


def steps_config(**trainer: Any) -> DictConfig:
    optim = {"actor": {"optim": {"total_training_steps": 11}}}
    return OmegaConf.create({"actor_rollout_ref": optim, "trainer": {"total_training_steps": None, **trainer}})


@pytest.mark.parametrize(("step", "progress"), [(0, 0.0), (1, 0.0), (3, 0.2), (6, 0.5), (11, 1.0), (12, 1.0)])
def test_progress_goes_from_0_at_the_first_step_to_1_at_the_last(step, progress):
    assert training_progress(steps_config(), step) == progress
    assert training_progress(steps_config(total_training_steps=11), step) == progress


def test_the_number_of_steps_is_the_trainers_or_the_optimizers_or_unknown():
    assert training_progress(steps_config(total_training_steps=3), 2) == 0.5
    async_mode = {"trainer_mode": "separate_async", "separate_async": {"parameter_sync_step": 2}}
    assert training_progress(steps_config(v1=async_mode), 2) == 0.25  # 11 updates are 5 steps
    assert training_progress(steps_config(v1={**async_mode, "trainer_mode": "sync"}), 2) == 0.1
    assert training_progress(steps_config(total_training_steps=1), 1) == 0.0
    config = steps_config()
    config.actor_rollout_ref.actor.optim.total_training_steps = -1  # verl's value before the trainer starts
    assert training_progress(config, 5) == 0.0


# --- storing ---------------------------------------------------------------------------------------------------


def test_every_trajectory_is_scored_and_stored_as_a_session_of_its_own(make_worker, recorded):
    worker, request = make_worker(), tree_request()
    outputs = [SimpleNamespace(prompt_ids=[1], name=name) for name in "abc"]
    asyncio.run(worker._agent_loop_postprocess(outputs, False, tree_request=request, session_id=0, uid="u"))
    assert recorded.stored == [(output, {"session_id": rank, "uid": "u"}) for rank, output in enumerate(outputs)]
    recorded.stored.clear()
    asyncio.run(worker._agent_loop_postprocess(outputs[0], True, session_id=5, uid="u"))
    assert recorded.stored == [(outputs[0], {"session_id": 5, "uid": "u"})]


def output_of(worker: Any, prompt: str, response: str) -> SimpleNamespace:
    prompt_ids, response_ids = (worker.tokenizer.encode(text, add_special_tokens=False) for text in (prompt, response))
    return SimpleNamespace(
        prompt_ids=prompt_ids, response_ids=response_ids, response_mask=[1] * len(response_ids), extra_fields={}
    )


@pytest.mark.parametrize("samples_tree", [True, False])
@pytest.mark.parametrize(("prompt", "opened"), [("6?\n<think>\n", True), ("6?\n", False)])
def test_a_thinking_model_tells_the_reward_its_tags_and_counts_tokens(
    make_worker, recorded, samples_tree, prompt, opened
):
    worker = make_worker(thinking={"open": "<think>", "close": "</think>"})
    outputs = [output_of(worker, prompt, text) for text in ("so 5</think>5", "so")]
    row = {"session_id": 0, "uid": "u", "extra_info": {"index": 7}}
    given = outputs if samples_tree else outputs[0]
    request = {"tree_request": tree_request()} if samples_tree else {}
    asyncio.run(worker._agent_loop_postprocess(given, False, **request, **row))
    fields = {"open": "<think>", "close": "</think>", "opened": opened}
    for _, kwargs in recorded.stored:
        assert kwargs["extra_info"] == {"index": 7, "treepo_thinking": fields}
    assert row["extra_info"] == {"index": 7}
    inside = [len(worker.tokenizer.encode(text, add_special_tokens=False)) for text in ("so 5", "so")]
    expected = inside if opened else [inside[0], 0]
    assert [output.extra_fields.get("thinking_tokens") for output in outputs] == (
        expected if samples_tree else [expected[0], None]
    )


def test_without_tags_in_template_and_prompt_nothing_is_added_and_with_off_no_count(make_worker, recorded):
    def stored(prompt: str, **settings: Any) -> tuple[dict, dict]:
        output = output_of(worker := make_worker(**settings), prompt, "so")
        asyncio.run(worker._agent_loop_postprocess(output, False, uid="u"))
        return recorded.stored[-1][1], output.extra_fields

    assert stored("6?\n") == ({"uid": "u"}, {})
    off = {"open": "", "close": "", "opened": False}
    assert stored("6?\n<think>\n", thinking="off") == ({"uid": "u", "extra_info": {"treepo_thinking": off}}, {})
    # a prompt that opens a thought, although the template has no tags
    row, fields = stored("6?\n<think>\n")
    assert row["extra_info"] == {"treepo_thinking": {"open": "<think>", "close": "</think>", "opened": True}}
    assert fields["thinking_tokens"] > 0


def test_a_worker_finds_the_tags_in_the_chat_template(make_worker):
    assert make_worker().settings.thinking is None
    config = make_config()
    config.actor_rollout_ref.model.custom_chat_template = "{{ messages[0].content.split('</think>')[-1] }}<think>"
    assert Worker(config, FullyAsyncLLMServerClient(config=None)).settings.thinking == Thinking()


def test_a_failure_to_store_is_raised_after_the_others_have_finished(make_worker, monkeypatch):
    finished = []

    async def postprocess(self, output, validate, **kwargs):
        await asyncio.sleep(0.01 if output.name != "bad" else 0)
        if output.name == "bad":
            raise ConnectionError("no reward worker")
        finished.append(output.name)

    worker, request = make_worker(), tree_request()
    outputs = [SimpleNamespace(prompt_ids=[1], name=name) for name in ("a", "bad", "c")]
    monkeypatch.setattr(VerlWorker, "_agent_loop_postprocess", postprocess)
    with pytest.raises(ConnectionError, match="no reward worker"):
        asyncio.run(worker._agent_loop_postprocess(outputs, False, tree_request=request, session_id=0))
    assert finished == ["a", "c"]


@pytest.mark.parametrize("score", [1.0, float("nan")])
def test_texts_of_the_reward_function_can_be_stored(make_worker, monkeypatch, score):
    async def judge(self, outputs, kwargs):
        outputs[-1].reward_score = score
        outputs[-1].extra_fields["reward_extra_info"] = {"pred": "\ud800", "key \udfff": 1.5, "acc": score}

    monkeypatch.setattr(VerlWorker, "_compute_score", judge)
    output = SimpleNamespace(extra_fields={}, reward_score=None)
    asyncio.run(make_worker()._compute_score([output], {}))
    info = output.extra_fields["reward_extra_info"]
    assert (info["pred"], info["key \ufffd"], len(info)) == ("\ufffd", 1.5, 3)
    assert np.array_equal(output.reward_score, score, equal_nan=True)  # the trainer judges rewards


class RayTaskError(Exception):
    """Ray's exception, reduced to what is read from it."""

    cause = ValueError("no number in 'six'")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"reward_score": "6", "reward_extra_info": {"acc": 1.0}}, "returned a str: '6'"),
        ({"reward_score": None, "reward_extra_info": {"acc": None}}, "returned None"),
        (RayTaskError("long text"), "raised ValueError: no number in 'six'"),
        (KeyError("score"), "raised KeyError: 'score'"),
        (TimeoutError("of the judge"), "raised TimeoutError: of the judge"),
        (None, "did not return in time: 0.05 seconds"),
    ],
)
def test_a_failed_reward_is_stored_as_nan_with_its_reason(make_worker, monkeypatch, result, reason):
    async def judge(self, outputs, kwargs):
        if result is None:
            await asyncio.sleep(60)
        if isinstance(result, Exception):
            raise result
        outputs[-1].reward_score = result["reward_score"]
        outputs[-1].extra_fields["reward_extra_info"] = result["reward_extra_info"]

    monkeypatch.setattr(VerlWorker, "_compute_score", judge)
    output = SimpleNamespace(extra_fields={"tree_path": [1]}, reward_score=None)
    worker = make_worker(reward_errors={"timeout_seconds": 0.05})
    worker.reward_loop_worker_handles = ["a reward worker"]
    asyncio.run(worker._compute_score([output], {}))
    assert np.isnan(output.reward_score)
    assert output.extra_fields == {"tree_path": [1], "reward_extra_info": {"reward_error": reason}}


def test_rewards_that_the_trainer_computes_later_are_no_failures(make_worker, monkeypatch):
    async def judge(self, outputs, kwargs):
        pass

    monkeypatch.setattr(VerlWorker, "_compute_score", judge)
    worker, output = make_worker(), SimpleNamespace(extra_fields={}, reward_score=None)
    worker.reward_loop_worker_handles = None
    asyncio.run(worker._compute_score([output], {}))
    assert (output.reward_score, output.extra_fields) == (None, {})


# --- the manager -----------------------------------------------------------------------------------------------


def test_the_manager_refuses_wrong_settings_before_it_starts_workers():
    with pytest.raises(ConfigError, match="init_divergence"):
        TreeAgentLoopManager(make_config(init_divergence=9), None)
    assert TreeAgentLoopManager(make_config(), None).agent_loop_workers_class is TreeAgentLoopWorker


def test_the_manager_logs_what_trees_never_ran_with_and_a_cache_block_without_effect(caplog):
    TreeAgentLoopManager(make_config(), None)
    assert not caplog.records
    config = make_config(cache_block=64)
    config.actor_rollout_ref.actor.strategy = "fsdp"
    TreeAgentLoopManager(config, None)
    keys = [record.getMessage().partition(": ")[0] for record in caplog.records]
    assert keys == ["treepo.cache_block=64", "actor_rollout_ref.actor.strategy=fsdp"]


def test_the_manager_loads_the_interaction_before_it_starts_workers(talk):
    assert TreeAgentLoopManager(make_config(interaction=talk), None).agent_loop_workers_class is TreeAgentLoopWorker
    talk["name"] = "Interaction_"
    with pytest.raises(ConfigError, match=r"treepo\.interaction\.name=Interaction_: .* does not define this name"):
        TreeAgentLoopManager(make_config(interaction=talk), None)


def test_the_manager_looks_for_the_tool_parser_before_it_starts_workers():
    config = make_config()
    config.actor_rollout_ref.rollout.multi_turn.format = "xyz"
    with pytest.raises(ConfigError, match=r"multi_turn\.format=xyz: verl has no parser of this name"):
        TreeAgentLoopManager(config, None)
