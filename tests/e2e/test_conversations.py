# SPDX-License-Identifier: Apache-2.0
"""Multi-turn trees in real runs: the re-check conversation, verl's tools, and the loops that they are compared with."""

import json
import sys
import tempfile
from pathlib import Path

import pytest
from formulas import dumps
from training_run import BATCH, LARGEST_DIFFERENCE, ROOT, WIDTH, train
from transformers import AutoConfig, AutoTokenizer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from recipe.treepo.reward import compute_score

sys.path.insert(0, str(ROOT / "examples"))

from recheck import CHECK_AGAIN, FINAL_ANSWER

DEPTH, CALL_COST = 4, 0.125


class Run:
    """What a run of one step wrote: its metrics, and its trees beside the rows that were trained."""

    def __init__(self, script: str, folder: Path, *overrides: str) -> None:
        steps = train(
            script,
            folder,
            "trainer.total_training_steps=1",
            "trainer.save_freq=-1",
            *dumps(folder),
            *overrides,
            lengths=(f"treepo.depth={DEPTH}",),
        )
        (self.metrics,) = steps
        self.trees = {path.stem: json.loads(path.read_text()) for path in (folder / "trees/step_1").glob("*.json")}
        self.rows = [json.loads(line) for line in (folder / "rollouts/1.jsonl").read_text().splitlines()]

    def trajectories(self) -> list[tuple[dict, list[dict]]]:
        """Return each trained row with the nodes of its path."""
        found = []
        for row in self.rows:
            prompt, session, _ = row["uid"].rsplit("_", 2)
            tree = self.trees[prompt]
            found.append((row, path_of(tree, tree["leaves"][int(session)])))
        return found


def path_of(tree: dict, node: int) -> list[dict]:
    path = []
    while node > 0:
        path.insert(0, tree["nodes"][node])
        node = tree["nodes"][node]["parent"]
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ROOT / "tiny/chat_model")


def run_of(script: str, *overrides: str):
    with tempfile.TemporaryDirectory() as name:
        yield Run(script, Path(name), *overrides)


@pytest.fixture(scope="module")
def recheck():
    yield from run_of("run_recheck_qwen0.5b.sh")


@pytest.fixture(scope="module")
def tools():
    yield from run_of(
        "run_calculator_qwen0.5b.sh", f"+reward.custom_reward_function.reward_kwargs.call_cost={CALL_COST}"
    )


@pytest.fixture(scope="module", params=["recheck", "tools"])
def run(request):
    return request.getfixturevalue(request.param)


def test_every_prompt_has_n_trajectories_of_several_turns(run):
    assert run.metrics["treepo/trajectories"] == len(run.rows) == BATCH * WIDTH
    assert all(len(tree["leaves"]) == WIDTH for tree in run.trees.values())
    turns = [1 + sum(node["messages"] is not None for node in path) for _, path in run.trajectories()]
    assert len(set(turns)) > 1 and max(turns) <= DEPTH
    # verl counts the prompt, and each turn of either side.
    assert run.metrics["num_turns/mean"] == pytest.approx(2 * sum(turns) / len(turns), abs=1e-4)


def test_the_engine_was_given_the_tokens_on_the_path_across_turns(run):
    calls = decoded = 0
    for tree in run.trees.values():
        by_name = {node["key"]: node for node in tree["nodes"]}
        for call in tree["calls"]:
            node = by_name[call["branch"]]
            before = [token for above in path_of(tree, node["parent"]) for token in above["token_ids"]]
            assert call["input_ids"] == tree["prompt_ids"] + before
            assert call["output_ids"] == node["token_ids"]
        calls += len(tree["calls"])
        decoded += sum(len(call["output_ids"]) for call in tree["calls"])
        # Only what the engine wrote has log-probabilities, and everything else was added by the interaction.
        for node in tree["nodes"][1:]:
            assert len(node["logprobs"]) == (len(node["token_ids"]) if node["messages"] is None else 0)
    assert (run.metrics["treepo/engine_calls"], run.metrics["treepo/decoded_tokens"]) == (calls, decoded)
    assert calls < sum(1 for _, path in run.trajectories() for node in path if node["messages"] is None)


def test_actor_and_engine_agree_about_what_was_sampled_after_what_was_added(run):
    # An added token that counted as sampled would differ by its whole probability.
    assert run.metrics["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
    assert run.metrics["actor/grad_norm"] > 0


def test_what_was_added_is_what_the_chat_template_makes_of_its_messages(run, tokenizer):
    config = AutoConfig.from_pretrained(ROOT / "tiny/chat_model")
    builder = create_continuous_token_builder(tokenizer, hf_model_type=config.model_type)
    ends = json.loads((ROOT / "tiny/chat_model/generation_config.json").read_text())["eos_token_id"]
    added = 0
    for tree in run.trees.values():
        for node in tree["nodes"]:
            if node["messages"]:
                previous = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
                # A turn that was cut off is closed first; the builder has the line break to add.
                last = tree["nodes"][node["parent"]]["token_ids"][-1]
                ids = [last] if last in ends else [last, tokenizer.eos_token_id]
                merged = builder.merge_context_tokens(previous, [*previous, *node["messages"]], ids)
                assert node["token_ids"] == merged.token_ids[1:]
                added += 1
    assert added


def test_a_wrong_answer_is_asked_again_and_a_right_one_ends(recheck):
    asked = set()
    for row, path in recheck.trajectories():
        *turns, last = (node for node in path if node["messages"] is None)
        right = compute_score("test", row["output"], row["gts"])["acc"] == 1.0
        assert (last["finish_detail"] == "right") == right
        assert last["finish_reason"] == ("interaction" if right else "depth")
        assert row["score"] == float(right)
        replies = [node["messages"] for node in path if node["messages"] is not None]
        assert len(replies) == len(turns)
        assert all(reply == [{"role": "user", "content": CHECK_AGAIN}] for reply in replies[:2])
        assert replies[2:] in ([], [[{"role": "user", "content": FINAL_ANSWER}]])
        asked.add(len(replies))
    # A path that was asked less often ended because it was right, in its first turn or a later one.
    assert 3 in asked and len(asked) > 1


def test_tools_are_called_once_for_all_branches_and_the_reward_sees_the_calls(tools):
    results = 0
    for tree in tools.trees.values():
        for node in tree["nodes"]:
            if node["messages"]:
                assert [message["role"] for message in node["messages"]] == ["tool"]
                siblings = [other for other in tree["nodes"] if other["parent"] == node["parent"] and other is not node]
                assert not siblings
                results += 1
    assert tools.metrics["treepo/steps"] >= results > 0
    scores = set()
    for row, path in tools.trajectories():
        calls = sum(node["messages"] is not None for node in path)
        acc = compute_score("test", row["output"], row["gts"])["acc"]
        errors = sum(node["messages"][0]["content"].startswith("error") for node in path if node["messages"])
        if not errors:
            assert row["score"] == pytest.approx(acc - CALL_COST * calls)
        scores.add(row["score"])
    assert len(scores) > 2


@pytest.mark.slow
def test_independent_loops_are_one_flag_away_and_share_nothing():
    for loops in run_of("run_recheck_qwen0.5b.sh", "treepo.sampler=independent"):
        turns = 0
        for tree in loops.trees.values():
            assert [node["parent"] for node in tree["nodes"]].count(0) == WIDTH
            children = [node["parent"] for node in tree["nodes"] if node["parent"] > 0]
            assert len(children) == len(set(children))
            turns += sum(node["messages"] is None for node in tree["nodes"][1:])
        assert loops.metrics["treepo/engine_calls"] == turns
        assert loops.metrics["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
