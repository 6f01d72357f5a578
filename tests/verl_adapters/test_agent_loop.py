# SPDX-License-Identifier: Apache-2.0
"""The adapter between search and verl, with verl's base worker and the search replaced by recorders."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from omegaconf import OmegaConf
from tensordict import TensorDict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.utils import tensordict_utils
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from recipe.treepo.interaction import Interaction, Reply
from recipe.treepo.search import SearchError
from recipe.treepo.search.engine import Segment
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.seeds import derive_seed
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree
from recipe.treepo.settings.schema import InteractionSettings, Sampler, TreePOSettings
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters import agent_loop as rollout
from recipe.treepo.verl_adapters.agent_loop import (
    TreeAgentLoopManager,
    TreeAgentLoopWorker,
    TreeJob,
    eos_token_ids,
    training_progress,
    turn_end,
)
from recipe.treepo.verl_adapters.server_engine import TreeRequests

Worker = TreeAgentLoopWorker.__ray_metadata__.modified_class
Base = Worker.__mro__[1]

ROLLOUT = {"n": 4, "val_kwargs": {"n": 2, "top_p": 1.0, "top_k": -1, "temperature": 1.0}, "seed": 7}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "calculate_log_probs": True}
AGENT = {"agent": {"default_agent_loop": "single_turn_agent"}}


def make_config(**trainer: Any) -> Any:
    return OmegaConf.create(
        {
            "actor_rollout_ref": {
                "rollout": {**ROLLOUT, **SAMPLING, **AGENT},
                "actor": {"optim": {"total_training_steps": 11}},
            },
            "trainer": {"total_training_steps": None, **trainer},
        }
    )


def make_job(**changes: Any) -> TreeJob:
    standard = dict(width=3, settings=TreePOSettings(), progress=0.0, seed=1, eos_token_ids=frozenset())
    standard |= dict(independent=False, interaction=None)
    return TreeJob(
        **{**standard, "replaced_agent": "single_turn_agent", "validate": False, "client": Client(), **changes}
    )


def test_end_tokens_are_gathered_from_tokenizer_config_and_generation_config():
    model = SimpleNamespace(
        tokenizer=SimpleNamespace(eos_token_id=5),
        hf_config=SimpleNamespace(eos_token_id=None),
        generation_config=SimpleNamespace(eos_token_id=[5, 7]),
    )
    assert eos_token_ids(model) == {5, 7}
    model.generation_config, model.hf_config = None, SimpleNamespace(eos_token_id=9)
    assert eos_token_ids(model) == {5, 9}


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}", "<|im_end|>"),
        ("{{ '<|' + m['role'] + '|>' + m['content'] }}", None),
        ("{{ m['role'] + ': ' + m['content'] + '\n' }}", None),
    ],
)
def test_a_turn_ends_as_the_chat_template_says_not_as_the_tokenizer_ends_texts(template, end):
    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"asked said:\n<|>rutn"]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(dict.fromkeys(vocabulary))}))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", additional_special_tokens=special
    )
    tokenizer.chat_template = "{% for m in messages %}" + template + "{% endfor %}"
    assert turn_end(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


# --- what a worker makes of a prompt ---------------------------------------------------------------------------


@pytest.fixture
def worker(monkeypatch):
    """A worker without verl's start-up, whose base class records what reaches it."""
    instance = object.__new__(Worker)
    instance.settings = TreePOSettings()
    instance.interaction = None
    instance.eos_token_ids = frozenset({5})
    instance.config = make_config()
    instance.tree_client = object()
    instance.background_tasks = set()
    instance.prompts, instance.stored = [], []

    async def run_prompt(self, prompt, sampling_params, trajectory, trace=False):
        self.prompts.append(prompt)

    async def postprocess(self, output, validate, **kwargs):
        self.stored.append((output, kwargs))

    monkeypatch.setattr(Base, "_run_prompt", run_prompt)
    monkeypatch.setattr(Base, "_agent_loop_postprocess", postprocess)
    return instance


PLAIN = {"uid": "u", "agent_name": "single_turn_agent", "global_steps": 6}


def sent(worker, *, validate=False, number=0, **fields) -> dict:
    prompt = {**PLAIN, "tree_number": np.int64(number), **fields}
    asyncio.run(worker._run_prompt(prompt, {}, {"validate": validate}))
    return worker.prompts[-1]


def test_a_training_prompt_becomes_one_session_that_searches_a_tree_of_width_n(worker):
    prompt = sent(worker, number=3)
    job = prompt.pop("tree_job")
    assert prompt == {**PLAIN, "__rollout_n__": 1, "agent_name": rollout.TREE_AGENT}
    assert (job.width, job.replaced_agent, job.eos_token_ids) == (4, "single_turn_agent", {5})
    assert job.client is worker.tree_client
    assert job.progress == 0.5  # step 6 of 11
    assert job.seed == derive_seed(7, "train", 6, 3)
    assert sent(worker, __rollout_n__=3)["tree_job"].width == 3


def test_validation_greedy_baselines_and_the_plain_sampler_are_left_to_verl(worker):
    assert sent(worker, validate=True) == PLAIN
    assert sent(worker, __do_sample__=False) == {**PLAIN, "__do_sample__": False}
    worker.settings = TreePOSettings(validate_with_tree=True)
    job = sent(worker, validate=True, number=3)["tree_job"]
    assert (job.width, job.seed) == (2, derive_seed(7, "val", 6, 3))
    worker.settings = TreePOSettings(sampler="plain")
    assert sent(worker) == PLAIN


def test_a_worker_searches_with_a_client_made_from_the_one_that_it_was_given(monkeypatch):
    client = FullyAsyncLLMServerClient(config=None)

    def start(self, config, llm_client):
        self.config, self.llm_client, self.rollout_config = config, llm_client, SimpleNamespace(ignore_eos=True)

    monkeypatch.setattr(Base, "__init__", start)
    worker = Worker(make_config(), client)
    assert worker.llm_client is client and type(client) is FullyAsyncLLMServerClient
    assert isinstance(worker.tree_client, TreeRequests) and isinstance(worker.tree_client, FullyAsyncLLMServerClient)


# --- numbers, seeds and progress -------------------------------------------------------------------------------


def dispatch(worker, batches: list[tuple[bool, int, int]], monkeypatch, workers: int = 2) -> list[dict]:
    """Send batches of equal prompts (validate, step, size) through verl's manager and worker; return the rows."""
    chunks: list[TensorDict] = []
    remote = SimpleNamespace(generate_sequences=SimpleNamespace(remote=chunks.append))
    manager = object.__new__(TreeAgentLoopManager)
    monkeypatch.setattr(rollout, "validate_trees", lambda config: TreePOSettings())
    monkeypatch.setattr(
        rollout.AgentLoopManagerTQ, "__init__", lambda self: setattr(self, "config", OmegaConf.create())
    )
    manager.__init__()
    manager.agent_loop_workers = [remote] * workers
    monkeypatch.setattr(agent_loop_tq.ray, "get", list)
    worker.prompts.clear()

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
    return list(worker.prompts)


def test_equal_prompts_get_different_seeds_and_two_runs_the_same(worker, monkeypatch):
    worker.settings = TreePOSettings(validate_with_tree=True)
    batches = [(True, 0, 3), (False, 1, 4), (False, 1, 1), (True, 1, 3), (False, 1, 2), (False, 2, 4)]
    runs = [[row["tree_job"].seed for row in dispatch(worker, batches, monkeypatch)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == sum(size for *_, size in batches)
    numbers = {"val": [range(3), range(3)], "train": [range(7), range(4)]}
    assert set(runs[0]) == {
        derive_seed(7, phase, step, number)
        for phase, steps in (("val", (0, 1)), ("train", (1, 2)))
        for step, expected in zip(steps, numbers[phase], strict=True)
        for number in expected
    }


def test_the_number_of_a_prompt_does_not_depend_on_how_many_workers_there_are(worker, monkeypatch):
    one, three = (dispatch(worker, [(False, 1, 6)], monkeypatch, workers) for workers in (1, 3))
    assert [(row["uid"], row["tree_job"].seed) for row in one] == [(row["uid"], row["tree_job"].seed) for row in three]


def test_verls_own_loops_never_see_the_number(worker, monkeypatch):
    worker.settings = TreePOSettings(sampler="plain")
    rows = dispatch(worker, [(False, 1, 2), (True, 1, 1)], monkeypatch)
    assert [set(row) for row in rows] == [{"uid", "index", "global_steps", "agent_name"}] * 3


@pytest.mark.parametrize(("step", "progress"), [(0, 0.0), (1, 0.0), (3, 0.2), (6, 0.5), (11, 1.0), (12, 1.0)])
def test_progress_goes_from_0_at_the_first_step_to_1_at_the_last(step, progress):
    assert training_progress(make_config(), step) == progress
    assert training_progress(make_config(total_training_steps=11), step) == progress


def test_the_length_of_training_is_the_trainers_or_the_optimizers_in_updates_or_unknown():
    assert training_progress(make_config(total_training_steps=3), 2) == 0.5
    async_mode = {"trainer_mode": "separate_async", "separate_async": {"parameter_sync_step": 2}}
    assert training_progress(make_config(v1=async_mode), 2) == 0.25  # 11 updates are 5 steps
    assert training_progress(make_config(v1={**async_mode, "trainer_mode": "sync"}), 2) == 0.1
    assert training_progress(make_config(total_training_steps=1), 1) == 0.0
    config = make_config()
    config.actor_rollout_ref.actor.optim.total_training_steps = -1  # as verl declares it, before the trainer starts
    assert training_progress(config, 5) == 0.0


# --- what comes back -------------------------------------------------------------------------------------------


def test_every_trajectory_is_scored_and_stored_as_a_session_of_its_own(worker):
    job = make_job()
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
    job = make_job()
    with pytest.raises(ConnectionError, match="no reward worker"):
        asyncio.run(worker._agent_loop_postprocess(["a", "bad", "c"], False, tree_job=job, session_id=0, uid="u"))
    assert settled == ["a", "c"]


def test_a_trajectory_carries_tokens_logprobs_versions_and_its_path():
    tree = Tree([1, 2])
    tree.add(ROOT, Segment([3, 4], [-0.5, -0.25], min_version=6, max_version=6), key="0")
    tree.add(1, Segment([5], [-1.0], min_version=6, max_version=7), key="0.0")
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
    job = make_job(replaced_agent="other_agent")
    with pytest.raises(
        ValueError, match="agent_name=other_agent: trees take the place of single_turn_agent and tool_agent only"
    ):
        asyncio.run(loop.run({}, tree_job=job, raw_prompt=[], global_steps=1))


# --- the agent loop --------------------------------------------------------------------------------------------


async def run_loop(
    job: TreeJob, *, engine_name: str = "vllm", full_determinism: bool = False, temperature: float = 1.0
) -> list:
    loop = object.__new__(rollout.TreeAgentLoop)
    loop.rollout_config = SimpleNamespace(name=engine_name, full_determinism=full_determinism, response_length=70)
    loop.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: f"{ids} {skip_special_tokens}")
    loop.loop = asyncio.get_running_loop()

    async def no_media(messages):
        return {}

    async def tokens(messages, tools):
        assert tools is None
        return [1, 2]

    loop.process_multi_modal_info, loop.ct_build_initial_tokens = no_media, tokens
    row = {"raw_prompt": [{"role": "user", "content": "?"}], "global_steps": 6, "uid": "u"}
    return await loop.run({"temperature": temperature}, tree_job=job, priority=np.int64(9), **row)


class Client:
    """Answers every request with one token and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict] = []

    async def generate(self, **request: Any) -> SimpleNamespace:
        self.requests.append(request)
        return SimpleNamespace(token_ids=[3], log_probs=[-0.5], stop_reason="completed", extra_fields={})


@pytest.fixture
def searches(monkeypatch) -> list[tuple[list[int], dict]]:
    """What the search was asked; it makes one request and returns a tree of one leaf and a path that was dropped."""
    asked = []

    async def search(prompt_ids, **arguments):
        asked.append((prompt_ids, arguments))
        tree = Tree(prompt_ids)
        for number in range(2):
            tree.add(ROOT, Segment([3], [-0.5]), key=str(number))
            tree.finish(1 + number, FinishReason.EOS, dropped=number == 1)
        await arguments["engine"].extend([1, 2], max_tokens=4, branch="0")
        return tree

    monkeypatch.setattr(rollout, "grow_tree", search)
    return asked


def test_the_search_is_told_the_shape_the_rules_and_the_seed_of_the_job(searches):
    settings = TreePOSettings(temperature=(1.0, 3.0), depth=5)
    job = make_job(width=2, settings=settings, progress=0.5, seed=99, eos_token_ids=frozenset({5}))
    outputs = asyncio.run(run_loop(job))
    prompt_ids, asked = searches[0]
    assert prompt_ids == [1, 2] and asked["seed"] == 99
    assert asked["shape"] == settings.shape(width=2, response_length=70, progress=0.5)
    assert asked["shape"].branching.temperature == pytest.approx(2.0)
    rules = asked["stopping"]
    assert (rules.eos_token_ids, rules.response_length, rules.depth) == ({5}, 70, 5)
    assert rules.decode([4]) == "[4] True"
    assert [output.response_ids for output in outputs] == [[3]]


@pytest.mark.parametrize(
    ("engine_name", "full_determinism", "stop", "seeded"),
    [("vllm", False, ["Q:"], False), ("vllm", True, ["Q:"], True), ("sglang", False, None, False)],
)
def test_the_engine_gets_the_jobs_client_end_tokens_and_what_it_can_use_besides(
    engine_name, full_determinism, stop, seeded, searches
):
    client = Client()
    settings = TreePOSettings(stop_strings=("Q:",))
    job = make_job(settings=settings, seed=99, eos_token_ids=frozenset({7, 5}), client=client)
    asyncio.run(run_loop(job, engine_name=engine_name, full_determinism=full_determinism, temperature=0.5))
    request = client.requests[0]
    params = request["sampling_params"]
    assert (params["temperature"], params["stop_token_ids"], params.get("stop")) == (0.5, [5, 7], stop)
    assert params.get("seed") == (derive_seed(99, "0") % 2**31 if seeded else None)
    assert request["priority"] == 9 and type(request["priority"]) is int


def test_a_tree_is_dumped_with_the_names_of_its_nodes_and_the_calls_by_branch(searches, tmp_path):
    asyncio.run(run_loop(make_job(settings=TreePOSettings(dump_dir=str(tmp_path)))))
    document = json.loads((tmp_path / "step_6" / "u.json").read_text())
    assert document["prompt_ids"] == [1, 2] and document["leaves"] == [1]
    assert [(node["index"], node["parent"], node["key"], node["dropped"]) for node in document["nodes"]] == [
        (0, -1, "", False),
        (1, 0, "0", False),
        (2, 0, "1", True),
    ]
    assert document["nodes"][1] == {
        "index": 1,
        "parent": 0,
        "key": "0",
        "offset": 0,
        "token_ids": [3],
        "logprobs": [-0.5],
        "messages": None,
        "finish_reason": "eos",
        "finish_detail": "",
        "dropped": False,
    }
    assert document["calls"] == [{"branch": "0", "input_ids": [1, 2], "output_ids": [3]}]
    asyncio.run(run_loop(make_job(settings=TreePOSettings(dump_dir=str(tmp_path)), validate=True)))
    assert (tmp_path / "val_step_6" / "u.json").exists()


def test_a_search_that_fails_fails_the_prompt_with_its_own_words(monkeypatch):
    async def fail(prompt_ids, **arguments):
        raise SearchError("4 paths were given up")

    monkeypatch.setattr(rollout, "grow_tree", fail)
    with pytest.raises(SearchError, match="^4 paths were given up$"):
        asyncio.run(run_loop(make_job()))


# --- which prompts are searched, and how -----------------------------------------------------------------------


class Talk(Interaction):
    """Says what it was told to say; knows what was asked of it."""

    made: ClassVar[list["Talk"]] = []

    def __init__(self, said: str = "more") -> None:
        self.said, self.agent, self.asked_for_tools = said, None, 0
        self.made.append(self)

    def setup(self, agent):
        self.agent = agent

    def tool_schemas(self, sample):
        self.asked_for_tools += 1
        return [{"name": sample["uid"]}]

    def stop_token_ids(self):
        return [88]

    async def step(self, context):
        return [{"role": "user", "content": self.said}]


NOTHING = "verl's own"


@pytest.mark.parametrize("agent", ["single_turn_agent", "tool_agent"])
@pytest.mark.parametrize(
    ("sampler", "talks", "validate_with_tree", "expected"),
    # of a training prompt, a greedy baseline, a validation prompt
    [
        ("tree", False, False, ("tree", NOTHING, NOTHING)),
        ("tree", False, True, ("tree", NOTHING, "tree")),
        ("tree", True, False, ("tree", "loops", "loops")),
        ("tree", True, True, ("tree", "loops", "tree")),
        ("independent", False, False, ("loops", "loops", NOTHING)),
        ("independent", False, True, ("loops", "loops", NOTHING)),
        ("independent", True, False, ("loops", "loops", "loops")),
        ("independent", True, True, ("loops", "loops", "loops")),
        ("plain", False, False, (NOTHING, NOTHING, NOTHING)),
        ("plain", False, True, (NOTHING, NOTHING, NOTHING)),
    ],
)
def test_every_prompt_goes_where_the_settings_send_it(worker, agent, sampler, talks, validate_with_tree, expected):
    worker.settings = TreePOSettings(sampler=Sampler(sampler), validate_with_tree=validate_with_tree)
    worker.interaction = Talk if talks else None
    kinds = [{}, {"__do_sample__": False, "__rollout_n__": 1}, {"validate": True}]
    found = []
    for kind, width in zip(kinds, (4, 1, 2), strict=True):
        prompt = sent(worker, number=3, **{**kind, "agent_name": agent})
        job = prompt.get("tree_job")
        if job is None:
            assert prompt == {**PLAIN, "agent_name": agent, **{key: kind[key] for key in kind if key != "validate"}}
            found.append(NOTHING)
            continue
        # verl reads from the prompt whether it is sampled greedily
        assert prompt.get("__do_sample__") == kind.get("__do_sample__")
        assert (prompt["agent_name"], prompt["__rollout_n__"]) == (rollout.TREE_AGENT, 1)
        assert (job.width, job.replaced_agent, job.interaction) == (width, agent, worker.interaction)
        assert (job.validate, job.seed) == (
            "validate" in kind,
            derive_seed(7, "val" if job.validate else "train", 6, 3),
        )
        found.append("loops" if job.independent else "tree")
    assert tuple(found) == expected


def test_a_worker_loads_the_class_that_is_named(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from recipe.treepo.interaction import Interaction\nclass Mine(Interaction):\n    pass\n"
    )

    def start(self, config):
        self.config, self.llm_client = config, FullyAsyncLLMServerClient(config=None)
        self.rollout_config = SimpleNamespace(ignore_eos=True)

    monkeypatch.setattr(Base, "__init__", start)
    config = make_config()
    assert Worker(config).interaction is None
    config.treepo = {"interaction": {"path": str(tmp_path / "mine.py"), "name": "Mine"}}
    assert Worker(config).interaction.__name__ == "Mine"


# --- conversations in the loop ---------------------------------------------------------------------------------


async def talk_in_loop(job: TreeJob, **multi_turn: Any) -> list:
    """Run a loop whose prompt is [1, 2] and in which every addition is [30, 31] whatever it says."""
    loop = object.__new__(rollout.TreeAgentLoop)
    limits = SimpleNamespace(**{"max_assistant_turns": None, "max_user_turns": None, **multi_turn})
    loop.rollout_config = SimpleNamespace(name="vllm", full_determinism=False, response_length=70, multi_turn=limits)
    loop.tokenizer = SimpleNamespace(
        decode=lambda ids, skip_special_tokens: f"{ids}",
        apply_chat_template=lambda chat, tokenize: chat[-1]["content"] + "<end>",
        encode=lambda text, add_special_tokens: {"<end>": [5]}[text],
        all_special_ids=[5],
    )
    loop.loop = asyncio.get_running_loop()
    loop.shown, loop.merged = [], []

    async def no_media(messages):
        return {}

    async def tokens(messages, tools):
        loop.shown.append(tools)
        return [1, 2]

    def merge(messages, updated, token_ids, tools):
        loop.merged.append((updated[len(messages) :], tools))
        return SimpleNamespace(token_ids=[*token_ids, 30, 31])

    loop.process_multi_modal_info, loop.ct_build_initial_tokens = no_media, tokens
    loop.continuous_token_builder = SimpleNamespace(merge_context_tokens=merge)
    row = {"raw_prompt": [{"role": "user", "content": "?"}], "global_steps": 6, "uid": "u"}
    return loop, await loop.run({"temperature": 1.0}, tree_job=job, **row)


class Ending(Client):
    """Writes 3 and the end token 5, with a weight version that grows."""

    async def generate(self, **request):
        self.requests.append(request)
        version = {"min_global_steps": len(self.requests), "max_global_steps": len(self.requests)}
        return SimpleNamespace(token_ids=[3, 5], log_probs=[-0.5, -0.25], stop_reason="completed", extra_fields=version)


def talk_job(**changes: Any) -> TreeJob:
    settings = changes.pop("settings", TreePOSettings(depth=3))
    standard = {"interaction": Talk, "settings": settings, "eos_token_ids": frozenset({5}), "client": Ending()}
    return make_job(**{"width": 1, "independent": True, **standard, **changes})


@pytest.fixture
def talks(monkeypatch) -> list[Talk]:
    """All instances that a test made."""
    monkeypatch.setattr(Talk, "made", [])
    return Talk.made


def test_the_interaction_is_made_once_for_a_prompt_with_its_options_and_knows_the_loop(talks):
    settings = TreePOSettings(depth=3, interaction=InteractionSettings(options={"said": "hm"}))
    loop, outputs = asyncio.run(talk_in_loop(talk_job(settings=settings, width=3)))
    assert len(outputs) == 3
    [talk] = talks
    assert (talk.said, talk.agent, talk.asked_for_tools) == ("hm", loop, 1)
    # the prompt and every addition are written with the tools that the model is shown
    assert loop.shown == [[{"name": "u"}]]
    assert loop.merged == [([{"role": "user", "content": "hm"}], [{"name": "u"}])] * 6


def test_an_interaction_of_the_users_takes_the_place_of_verls_tools(talks):
    asyncio.run(talk_in_loop(talk_job(replaced_agent="tool_agent")))
    assert len(talks) == 1


def test_its_stop_tokens_end_turns_beside_the_models(talks, searches):
    job = talk_job()
    asyncio.run(talk_in_loop(job))
    [(_, asked)] = searches
    assert asked["stopping"].eos_token_ids == {5, 88}
    assert job.client.requests[0]["sampling_params"]["stop_token_ids"] == [5, 88]


def test_a_trajectory_with_replies_has_them_masked_and_told(talks):
    _, [output] = asyncio.run(talk_in_loop(talk_job()))
    # three turns of 3 and 5, which are as many as depth allows, with two additions between them
    assert output.response_ids == [3, 5, 30, 31, 3, 5, 30, 31, 3, 5]
    assert output.response_mask == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert output.response_logprobs == [-0.5, -0.25, 0.0, 0.0, -0.5, -0.25, 0.0, 0.0, -0.5, -0.25]
    # the prompt, three turns of the model and two of the user
    assert output.num_turns == 6
    fields = output.extra_fields
    assert fields["tree_turns"] == [{"messages": [{"role": "user", "content": "more"}]}] * 2
    assert (fields["tool_rewards"], fields["turn_scores"]) == ([], [])
    assert (fields["tree_finish_reason"], fields["tree_finish_detail"]) == ("depth", "")
    assert (fields["min_global_steps"], fields["max_global_steps"]) == (1, 3)


def test_verls_limits_of_turns_hold_for_any_interaction(talks):
    counts = []
    for limits in ({}, {"max_assistant_turns": 2}, {"max_user_turns": 2}, {"max_user_turns": 1}):
        settings = TreePOSettings(depth=9)
        _, [output] = asyncio.run(talk_in_loop(talk_job(settings=settings), **limits))
        counts.append((output.num_turns, output.extra_fields["tree_finish_reason"]))
    assert counts == [(18, "depth"), (4, "turns"), (6, "turns"), (4, "turns")]


def test_what_the_interaction_finds_out_about_the_prompt(talks, monkeypatch):
    seen = []

    async def check(self, context):
        seen.append(context)
        return "won"

    monkeypatch.setattr(Talk, "check_finished", check)
    settings = TreePOSettings(depth=4, interaction=InteractionSettings(turn_length=9))
    _, [output] = asyncio.run(talk_in_loop(talk_job(settings=settings, validate=True), max_assistant_turns=3))
    [context] = seen
    assert context.messages == [{"role": "user", "content": "?"}, {"role": "assistant", "content": "[3, 5]"}]
    assert (context.turn, context.turns_left, context.tokens_left, context.cut_off) == (1, 2, 68, False)
    assert (context.validate, context.sample["uid"], context.node) == (True, "u", "0")
    fields = output.extra_fields
    assert (fields["tree_finish_reason"], fields["tree_finish_detail"]) == ("interaction", "won")
    assert (output.num_turns, fields["tree_turns"]) == (2, [])


def test_rewards_of_tools_and_what_a_reward_function_is_told_follow_the_path(talks, monkeypatch):
    async def step(self, context):
        messages = [{"role": "tool", "content": str(context.turn)}]
        return Reply(messages=messages, info={"turn": context.turn}, tool_rewards=[context.turn / 2, 0.0])

    monkeypatch.setattr(Talk, "step", step)
    _, [output] = asyncio.run(talk_in_loop(talk_job()))
    assert output.extra_fields["tool_rewards"] == [0.5, 0.0, 1.0, 0.0]
    assert output.extra_fields["tree_turns"] == [
        {"messages": [{"role": "tool", "content": "1"}], "turn": 1},
        {"messages": [{"role": "tool", "content": "2"}], "turn": 2},
    ]


def test_what_an_interaction_added_is_dumped_with_its_messages(talks, tmp_path):
    settings = TreePOSettings(depth=2, dump_dir=str(tmp_path))
    asyncio.run(talk_in_loop(talk_job(settings=settings)))
    nodes = json.loads((tmp_path / "step_6" / "u.json").read_text())["nodes"]
    assert [(node["key"], node["token_ids"], node["messages"]) for node in nodes] == [
        ("", [], None),
        ("0", [3, 5], None),
        ("0+", [30, 31], [{"role": "user", "content": "more"}]),
        ("0+.0", [3, 5], None),
    ]
    assert [node["finish_reason"] for node in nodes] == [None, None, None, "depth"]


@pytest.mark.parametrize(("independent", "routes"), [(True, 3), (False, 1)])
def test_loops_that_share_nothing_are_routed_and_written_apart(independent, routes, talks):
    job = talk_job(width=3, independent=independent)
    _, outputs = asyncio.run(talk_in_loop(job))
    assert len({request["request_id"] for request in job.client.requests}) == routes
    paths = [tuple(node for node, _ in output.extra_fields["tree_path"]) for output in outputs]
    shared = set(paths[0]) & set(paths[1]) & set(paths[2])
    if independent:
        assert shared == set() and len(job.client.requests) == 9
        assert [len(path) for path in paths] == [3, 3, 3]


def test_the_shape_of_a_conversation_is_that_of_turns(talks, searches):
    settings = TreePOSettings(depth=5, interaction=InteractionSettings(turn_length=11))
    for job in (talk_job(settings=settings, independent=False, width=2), talk_job(settings=settings, width=2)):
        asyncio.run(talk_in_loop(job))
    [(_, tree), (_, loops)] = searches
    assert tree["shape"] == settings.shape(width=2, response_length=70, progress=0.0, conversation=True)
    assert loops["shape"] == settings.independent(2).shape(width=2, response_length=70, progress=0.0, conversation=True)
    assert tree["shape"].segment_length == loops["shape"].segment_length == 11
    assert tree["conversation"].rules.turn_length == 11 and tree["conversation"].end_token_id == 5


# --- the manager -----------------------------------------------------------------------------------------------


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
        TreeAgentLoopManager(config)


def test_the_manager_refuses_an_interaction_that_cannot_be_made_before_it_starts_workers(monkeypatch, tmp_path):
    (tmp_path / "talk.py").write_text("Talk = 3")
    rollout_keys = {"n": 4, "prompt_length": 9, "response_length": 70, "temperature": 1.0, "val_kwargs": {}}
    config = OmegaConf.create(
        {
            "treepo": {"interaction": {"path": str(tmp_path / "talk.py"), "name": "Talk"}},
            "actor_rollout_ref": {"rollout": rollout_keys},
        }
    )
    monkeypatch.setattr(rollout.AgentLoopManagerTQ, "__init__", lambda self, config: setattr(self, "config", config))
    with pytest.raises(ConfigError, match=r"treepo\.interaction\.name=Talk: is not a subclass"):
        TreeAgentLoopManager(config)
    config.treepo = {}
    assert TreeAgentLoopManager(config).agent_loop_workers_class is TreeAgentLoopWorker
    config.actor_rollout_ref.rollout.multi_turn = {"format": "xyz"}
    with pytest.raises(ConfigError, match=r"multi_turn\.format=xyz: verl has no parser of this name"):
        TreeAgentLoopManager(config)
