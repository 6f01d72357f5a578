# SPDX-License-Identifier: Apache-2.0
"""Multi-turn trees in real runs: re-check conversation, verl's tools, and independent loops."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from helpers.browser import check_pages
from helpers.formulas import check_step
from helpers.training_run import BATCH, LARGEST_DIFFERENCE, ROOT, WIDTH, dumps, path_of, train, trajectories
from recipe.treepo.examples.recheck import CHECK_AGAIN, FINAL_ANSWER
from recipe.treepo.reward import compute_score

CALL_COST = 0.125
ASYNCHRONOUS = (
    "trainer.v1.trainer_mode=treepo_colocate_async",
    "treepo.packed_training=true",
    "algorithm.adv_estimator=treepo_segment",
    "treepo.shared_token_weight=once",
)


class Run:
    """Results of a run: metrics and trajectories of each step.

    Attributes:
        depth: Maximum number of turns, from the script's preset.
    """

    def __init__(self, script: str, folder: Path, *overrides: str, steps: int, depth: int) -> None:
        length = (f"trainer.total_training_steps={steps}", "trainer.save_freq=-1")
        self.folder, self.depth = folder, depth
        self.metrics = train(script, folder, *length, *dumps(folder), *overrides, lengths=())
        self.trained = [trajectories(folder, step) for step in range(1, steps + 1)]

    @property
    def trajectories(self) -> list:
        return [trajectory for of_step in self.trained for trajectory in of_step]

    def trees(self, step: int) -> list[dict]:
        """Return the trees of a step, counted from 0."""
        return list({trajectory.prompt: trajectory.tree for trajectory in self.trained[step]}.values())

    @property
    def all_trees(self) -> list[dict]:
        return [tree for step in range(len(self.trained)) for tree in self.trees(step)]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ROOT / "tiny/chat_model")


def run_of(script: str, *overrides: str, **rest: int) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as name:
        yield Run(script, Path(name), *overrides, **rest)


@pytest.fixture(scope="module")
def recheck():
    yield from run_of("run_recheck_qwen0.5b.sh", steps=1, depth=4)


@pytest.fixture(scope="module")
def tools():
    cost = f"+reward.custom_reward_function.reward_kwargs.call_cost={CALL_COST}"
    yield from run_of("run_calculator_qwen0.5b.sh", cost, *ASYNCHRONOUS, steps=2, depth=6)


@pytest.fixture(scope="module", params=["recheck", "tools"])
def run(request):
    return request.getfixturevalue(request.param)


def test_every_prompt_has_n_trajectories_of_several_turns(run):
    lengths = set()
    for step, (metrics, trained) in enumerate(zip(run.metrics, run.trained, strict=True)):
        assert metrics["treepo/trajectories"] == len(trained) == BATCH * WIDTH
        assert [len(tree["leaves"]) for tree in run.trees(step)] == [WIDTH] * BATCH
        turns = [1 + sum(node["messages"] is not None for node in trajectory.nodes) for trajectory in trained]
        # verl counts the prompt and the turns of both sides.
        assert metrics["num_turns/mean"] == pytest.approx(2 * sum(turns) / len(turns), abs=1e-4)
        lengths.update(turns)
    # In one of 30,000 re-check runs all lengths are equal; with the calculator they differ by problem.
    assert len(lengths) > 1 and max(lengths) <= run.depth


def test_the_engine_was_given_the_tokens_on_the_path_across_turns(run):
    for step, (metrics, trained) in enumerate(zip(run.metrics, run.trained, strict=True)):
        calls = decoded = 0
        for tree in run.trees(step):
            by_name = {node["key"]: node for node in tree["nodes"]}
            for call in tree["calls"]:
                node = by_name[call["branch"]]
                before = [token for above in path_of(tree, node["parent"]) for token in above["token_ids"]]
                assert call["input_ids"] == tree["prompt_ids"] + before
                assert call["output_ids"] == node["token_ids"]
            calls += len(tree["calls"])
            decoded += sum(len(call["output_ids"]) for call in tree["calls"])
            # Only sampled tokens have log-probabilities; the interaction added the others.
            for node in tree["nodes"][1:]:
                assert len(node["logprobs"]) == (len(node["token_ids"]) if node["messages"] is None else 0)
        assert (metrics["treepo/engine_calls"], metrics["treepo/decoded_tokens"]) == (calls, decoded)
        assert calls < sum(node["messages"] is None for trajectory in trained for node in trajectory.nodes)


def test_actor_and_engine_agree_on_sampled_tokens_after_replies(run):
    # A reply token treated as sampled would differ by its whole probability. First step only, because an asynchronous
    # trainer samples from older weights later.
    assert run.metrics[0]["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
    assert all(step["actor/grad_norm"] > 0 for step in run.metrics)


def test_replies_agree_with_the_chat_template(run, tokenizer):
    config = AutoConfig.from_pretrained(ROOT / "tiny/chat_model")
    builder = create_continuous_token_builder(tokenizer, hf_model_type=config.model_type)
    ends = json.loads((ROOT / "tiny/chat_model/generation_config.json").read_text())["eos_token_id"]
    added = 0
    for tree in run.all_trees:
        for node in tree["nodes"]:
            if node["messages"]:
                previous = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
                # A cut-off turn is closed first; the builder adds the line break.
                last = tree["nodes"][node["parent"]]["token_ids"][-1]
                ids = [last] if last in ends else [last, tokenizer.eos_token_id]
                merged = builder.merge_context_tokens(previous, [*previous, *node["messages"]], ids)
                assert node["token_ids"] == merged.token_ids[1:]
                added += 1
    assert added


def test_a_wrong_answer_gets_a_reply_and_a_right_one_ends(recheck):
    asked = set()
    for trajectory in recheck.trajectories:
        row = trajectory.row
        *turns, last = (node for node in trajectory.nodes if node["messages"] is None)
        right = compute_score("test", row["output"], row["gts"])["acc"] == 1.0
        assert (last["finish_detail"] == "right") == right
        assert last["finish_reason"] == ("interaction" if right else "depth")
        assert row["score"] == float(right)
        replies = [node["messages"] for node in trajectory.nodes if node["messages"] is not None]
        assert len(replies) == len(turns)
        assert all(reply == [{"role": "user", "content": CHECK_AGAIN}] for reply in replies[:2])
        assert replies[2:] in ([], [[{"role": "user", "content": FINAL_ANSWER}]])
        asked.add(len(replies))
    # A path with fewer replies ended because it was right. This fails in one of 30,000 runs.
    assert 3 in asked and len(asked) > 1


def test_tools_are_called_once_for_all_branches_and_the_reward_sees_the_calls(tools):
    for step, metrics in enumerate(tools.metrics):
        results = 0
        for tree in tools.trees(step):
            for node in tree["nodes"]:
                if node["messages"]:
                    assert [message["role"] for message in node["messages"]] == ["tool"]
                    assert [other["parent"] for other in tree["nodes"]].count(node["parent"]) == 1
                    results += 1
        assert metrics["treepo/steps"] >= results > 0
    scores = set()
    for trajectory in tools.trajectories:
        messages = [node["messages"] for node in trajectory.nodes if node["messages"] is not None]
        acc = compute_score("test", trajectory.row["output"], trajectory.row["gts"])["acc"]
        assert trajectory.row["score"] == pytest.approx(acc - CALL_COST * len(messages))
        scores.add(trajectory.row["score"])
    # A single prompt nearly always has several.
    assert len(scores) > 2


def test_async_training_with_packing_segment_credit_and_weight_once(tools):
    for step in tools.metrics:
        check_step(tools.folder, step, "treepo_segment", "whiten", "once")
        assert step["treepo/decoded_tokens"] < step["treepo/total_tokens"]
        assert step["actor/packing/unique_over_total"] < 0.9
    # Without the weights, the losses of whitened advantages would be 0.
    assert max(abs(step["actor/pg_loss"]) for step in tools.metrics) > 1e-4


def test_the_viewer_shows_conversations(run):
    check_pages(run.folder / "trees", 2)


@pytest.mark.slow
def test_independent_loops_are_one_flag_away_and_share_nothing():
    for loops in run_of("run_recheck_qwen0.5b.sh", "treepo.sampler=independent", steps=1, depth=4):
        [metrics], turns = loops.metrics, 0
        for tree in loops.all_trees:
            assert [node["parent"] for node in tree["nodes"]].count(0) == WIDTH
            children = [node["parent"] for node in tree["nodes"] if node["parent"] > 0]
            assert len(children) == len(set(children))
            turns += sum(node["messages"] is None for node in tree["nodes"][1:])
        assert metrics["treepo/engine_calls"] == turns
        assert metrics["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
        check_pages(loops.folder / "trees", 2)
