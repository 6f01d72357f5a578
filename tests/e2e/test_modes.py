# SPDX-License-Identifier: Apache-2.0
"""Real runs in other modes of verl than the default: deterministic, asynchronous."""

import json
import tempfile
from pathlib import Path

from training_run import BATCH, LARGEST_DIFFERENCE, WIDTH, train


def sampled(folder: Path) -> dict[str, list]:
    """Return the tokens of all trees by step, in an order that does not depend on the random names of the files."""
    return {
        step.name: sorted(
            [(node["key"], node["token_ids"], node["finish_reason"]) for node in json.loads(path.read_text())["nodes"]]
            for path in step.glob("*.json")
        )
        for step in (folder / "trees").iterdir()
    }


def test_with_full_determinism_two_runs_sample_the_same_trajectories():
    runs = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as name:
            train(
                "run_treepo_qwen0.5b.sh",
                Path(name),
                "trainer.total_training_steps=2",
                "trainer.save_freq=-1",
                "actor_rollout_ref.rollout.full_determinism=True",
                f"treepo.dump_dir={name}/trees",
            )
            runs.append(sampled(Path(name)))
    first, second = runs
    assert [len(trees) for trees in first.values()] == [BATCH, BATCH]
    # The second step samples from weights that were trained on the first, so training has to agree, too.
    assert first == second
    # Siblings have seeds of their own: no two children of the root begin alike in every tree.
    beginnings = [[tokens for key, tokens, _ in tree if key in ("0", "1")] for tree in first["step_1"]]
    assert any(one != other for one, other in beginnings)


def test_trees_train_in_verls_asynchronous_trainer_also_packed():
    with tempfile.TemporaryDirectory() as name:
        metrics = train(
            "run_treepo_qwen0.5b.sh",
            Path(name),
            "trainer.total_training_steps=3",
            "trainer.save_freq=-1",
            "trainer.v1.trainer_mode=treepo_colocate_async",
            "treepo.packed_training=true",
        )
    assert [step["treepo/trajectories"] for step in metrics] == [BATCH * WIDTH] * 3
    assert all(step["actor/grad_norm"] > 0 for step in metrics)
    assert all(step["treepo/decoded_tokens"] < step["treepo/total_tokens"] for step in metrics)
    assert all(step["actor/packing/unique_over_total"] < 0.9 for step in metrics)
    # The packed pass computes the probabilities that the engine sampled with.
    assert metrics[0]["training/rollout_probs_diff_max"] < LARGEST_DIFFERENCE
