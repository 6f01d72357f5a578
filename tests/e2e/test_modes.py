# SPDX-License-Identifier: Apache-2.0
"""Real runs in other modes than the default: repeated deterministically; asynchronous, packed, other advantages."""

import json
import tempfile
from pathlib import Path

from conftest import DETERMINISTIC
from formulas import check_step, dumps
from training_run import BATCH, LARGEST_DIFFERENCE, STEPS, WIDTH, train


def sampled(folder: Path, step: int) -> list:
    """Return the tokens of all trees of a step, in an order that does not depend on the random names of the files."""
    return sorted(
        [(node["key"], node["token_ids"], node["finish_reason"]) for node in json.loads(path.read_text())["nodes"]]
        for path in (folder / f"trees/step_{step}").glob("*.json")
    )


def test_with_full_determinism_two_runs_sample_the_same_trajectories(main_run):
    with tempfile.TemporaryDirectory() as name:
        train(
            "run_treepo_qwen0.5b.sh",
            Path(name),
            "trainer.total_training_steps=2",
            "trainer.save_freq=-1",
            DETERMINISTIC,
            *dumps(Path(name)),
        )
        # The second step samples from weights that were trained on the first, so training has to agree, too.
        for step in (1, 2):
            first, second = sampled(main_run.folder, step), sampled(Path(name), step)
            assert len(first) == BATCH
            assert first == second
    # Siblings have seeds of their own: no two children of the root begin alike in every tree.
    beginnings = [[tokens for key, tokens, _ in tree if key in ("0", "1")] for tree in sampled(main_run.folder, 1)]
    assert any(one != other for one, other in beginnings)


def test_the_asynchronous_trainer_trains_packed_trees_with_segment_credit_and_each_unique_token_once():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = train(
            "run_treepo_qwen0.5b.sh",
            folder,
            f"trainer.total_training_steps={STEPS}",
            "trainer.save_freq=-1",
            "trainer.v1.trainer_mode=treepo_colocate_async",
            "treepo.packed_training=true",
            "algorithm.adv_estimator=treepo_segment",
            "treepo.shared_token_weight=once",
            *dumps(folder),
        )
        assert [step["treepo/trajectories"] for step in metrics] == [BATCH * WIDTH] * STEPS
        for step in metrics:
            check_step(folder, step, "treepo_segment", "whiten", "once")
    assert all(step["actor/grad_norm"] > 0 for step in metrics)
    assert all(step["treepo/decoded_tokens"] < step["treepo/total_tokens"] for step in metrics)
    assert all(step["actor/packing/unique_over_total"] < 0.9 for step in metrics)
    # The packed pass computes the probabilities that the engine sampled with.
    assert metrics[0]["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
