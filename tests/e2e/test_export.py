# SPDX-License-Identifier: Apache-2.0
"""A trained model, exported and evaluated: the accuracy is that of the training's validation, and so are the tokens."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.training_run import OUTPUTS, RESPONSE, ROOT, few_steps, metrics_of, run_in
from recipe.treepo.dumps.reader import Dump

N, PROBLEMS, GREEDY = 4, 50, 20
SAMPLED = (f"actor_rollout_ref.rollout.val_kwargs.n={N}", f"data.max_response_length={RESPONSE}")


def evaluate(run: Path, name: str, *overrides: str) -> Path:
    """Evaluate a run's last checkpoint with the script; return the folder of the evaluation."""
    knobs = {"RUN": str(run), "EXPERIMENT": name, "OUTPUTS": str(run), "PRESET": "tiny"}
    data = {f"{split.upper()}_FILE": f"{OUTPUTS}/data/tiny/{split}.parquet" for split in ("train", "val")}
    command = ["bash", "scripts/evaluate_qwen0.5b.sh", *overrides]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **knobs, **data},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return run / "evaluations" / name


@pytest.mark.slow
def test_a_trained_model_is_exported_and_evaluated():
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        steps = ("trainer.total_training_steps=2", "trainer.save_freq=2", "trainer.test_freq=2", *SAMPLED)
        script = ("bash", "scripts/run_treepo_qwen0.5b.sh")
        few = [key for key in few_steps(run) if not key.startswith("trainer.test_freq")]
        run_in(run, *script, *few, *steps, f"data.val_max_samples={PROBLEMS}")
        [validated] = [
            value for key, value in metrics_of(run)[-1].items() if key.startswith("val-core/") and f"mean@{N}" in key
        ]
        limits = (f"data.val_max_samples={PROBLEMS}", f"data.max_response_length={RESPONSE}")
        sampled = evaluate(run, "sampled", *limits, f"evaluation.n={N}")
        [arm] = [one for one in json.loads((sampled / "report.json").read_text())["runs"] if one["arm"] == "plain"]
        mean = arm["data_sets"]["overall"]["mean"]
        # Twice the interval, because the validation is a sample, too.
        assert 2 * mean["low"] - mean["value"] <= validated <= 2 * mean["high"] - mean["value"]

        greedy = ("actor_rollout_ref.rollout.val_kwargs.temperature=0", "evaluation.n=1", "treepo.init_divergence=1")
        length = (f"data.val_max_samples={GREEDY}", f"data.max_response_length={RESPONSE}")
        evaluate(run, "greedy", *length, *greedy, f"treepo.dump.dir={run}/greedy_trees", "treepo.dump.prompts=null")
        model = AutoModelForCausalLM.from_pretrained(run / "model_step_2", dtype=torch.float32)
        dump = Dump(run / "greedy_trees")
        dump.refresh()
        trees = [dump.load(entry) for entry in dump.trees() if entry.summary["split"] == "plain_n1"]
        assert len(trees) == GREEDY
        for tree in trees:
            prompt, response = tree["prompt_ids"], [id for node in tree["nodes"][1:] for id in node["token_ids"]]
            inputs = torch.tensor([prompt])
            output = model.generate(inputs, attention_mask=inputs > -1, do_sample=False, max_new_tokens=RESPONSE)
            assert output[0, len(prompt) :].tolist() == response
