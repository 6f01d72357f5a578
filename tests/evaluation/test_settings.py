# SPDX-License-Identifier: Apache-2.0
"""Settings of an evaluation: values read, rules, and changes of the fingerprint."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig

from helpers.composition import composed as composed_for_training
from helpers.configs import briefly
from helpers.paths import ROOT
from recipe.treepo import main_eval
from recipe.treepo.evaluation import fingerprint
from recipe.treepo.evaluation.fingerprint import fingerprints
from recipe.treepo.evaluation.problems import EvaluationProblem
from recipe.treepo.evaluation.settings import EvaluationSettings, load_evaluation, powers_of_two
from recipe.treepo.main_eval import locked, open_records, with_group
from recipe.treepo.settings.values import ConfigError, ConfigProblem

CONFIG = ROOT / "recipe/treepo/config"
TINY = ["platform=cpu", "preset=tiny"]


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    shutil.copytree(ROOT / "tiny/model", tmp_path / "model")
    row = {"prompt": [{"role": "user", "content": "2+2?"}], "data_source": "a", "reward_model": {"ground_truth": "4"}}
    pd.DataFrame([row]).to_parquet(tmp_path / "val.parquet")
    files = [f"data.val_files={tmp_path}/val.parquet", f"actor_rollout_ref.model.path={tmp_path}/model"]
    return [*TINY, *files, f"evaluation.out_dir={tmp_path}/out"]


def composed(*overrides: str) -> DictConfig:
    return composed_for_training(*with_group(overrides))


def problems_of(*overrides: str) -> list[ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        load_evaluation(composed(*overrides))
    return caught.value.problems


def runs_of(settings: EvaluationSettings) -> list[tuple]:
    return [(run.arm, run.n, run.is_plain, run.settings.branching.root_children(run.n)) for run in settings.runs]


def test_by_default_plain_samples_and_the_configured_trees_are_compared(base):
    settings = load_evaluation(composed(*base, "treepo.init_divergence=[1,3]"))
    # the tiny preset validates with 4 samples
    assert runs_of(settings) == [("plain", 4, True, (1, 3)), ("tree", 4, False, (1, 3))]
    assert settings.k == (1, 2, 4)
    assert settings.runs[1].settings.depth == 4
    assert (settings.seed, settings.prompts_in_flight, settings.bootstrap, settings.confidence) == (0, 64, 1000, 0.95)


def test_scaling_samples_plain_once_and_trees_in_each_width_that_holds_their_root(base):
    settings = load_evaluation(composed(*base, "evaluation=scaling", "evaluation.n=[4,8]"))
    assert runs_of(settings) == [
        ("plain", 8, True, (4, 4)),
        ("divergence 2", 4, False, (2, 2)),
        ("divergence 2", 8, False, (2, 2)),
        ("divergence 4", 4, False, (4, 4)),
        ("divergence 4", 8, False, (4, 4)),
        ("divergence 8", 8, False, (8, 8)),
    ]
    assert [run.settings.branching.divergence for run in settings.runs[1:]] == [(2, 2)] * 2 + [(4, 4)] * 2 + [(8, 8)]


@pytest.mark.parametrize(("n", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_powers_of_two_end_with_n(n, expected):
    assert powers_of_two(n) == expected


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluation=compare", "evaluation.n=16"],
        ["evaluation=scaling"],
        # the tiny preset limits the model's context
        ["evaluation=scaling", "tree=scaling_2", "actor_rollout_ref.rollout.max_model_len=null"],
    ],
)
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_every_evaluation_composes_with_the_presets_and_keeps_the_rules(base, overrides, platform):
    settings = load_evaluation(composed(*base, *overrides, f"platform={platform}"))
    assert len(settings.runs) == (2 if "evaluation=compare" in overrides else 10)
    assert {path.stem for path in (CONFIG / "evaluation").iterdir()} == {"compare", "scaling"}


def test_all_problems_are_reported_together_with_keys_as_written(base, tmp_path):
    problems = problems_of(
        *TINY,
        f"data.val_files={tmp_path}/none.parquet",
        f"actor_rollout_ref.model.path={tmp_path}/model",
        "evaluation.n=[2,4]",
        "evaluation.k=[8]",
        "evaluation.confidence=1.5",
        "+evaluation.arms.wide={init_divergence: 8}",
        "+evaluation.arms.deep={dept: 3}",
        "+evaluation.arms.long={segment_length: 8}",
        "treepo.fallback.min_segments=9",
    )
    assert briefly(problems) == [
        "evaluation.out_dir=None: path",
        "evaluation.confidence=1.5: positive_number",
        "evaluation.arms.deep.dept=3: unknown_key",
        "evaluation.arms.wide.init_divergence=8: root_beyond_n",
        "treepo.fallback.min_segments=9: min_segments_too_high",
        "treepo.segment_length=8: segments_too_few",
        "evaluation.k=8: k_beyond_n",
        f"data.val_files={tmp_path}/none.parquet: missing_file",
    ]
    assert all("recipe/treepo/config/evaluation/compare.yaml" in problem.remedy for problem in problems[:2])
    assert "Did you mean treepo.depth?" in problems[2].remedy
    # 4 x 8 = 32 < 128: 32 tokens for 4 levels, or 16 levels of 8
    assert "Use treepo.depth=16, or treepo.segment_length=32" in problems[5].remedy


ROLLOUT = "actor_rollout_ref.rollout"
SAMPLING = f"{ROLLOUT}.val_kwargs"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([f"{SAMPLING}.temperature=0"], f"{SAMPLING}.temperature=0: greedy_samples"),
        ([f"{SAMPLING}.temperature=-1"], f"{SAMPLING}.temperature=-1: temperature"),
        (["evaluation.n=0"], "evaluation.n=0: integers"),
        (["evaluation.n=[]"], "evaluation.n=[]: integers"),
        ([f"{SAMPLING}.n=null"], f"{SAMPLING}.n=None: validation_n"),
        (["evaluation.arms.plain=null", "evaluation.arms.tree=null"], ": no_arms"),
        ([f"+evaluation.arms.{'a' * 70}={{depth: 3}}"], ": arm_name"),
        (
            ["+reward.custom_reward_function.reward_kwargs={workers: 0}"],
            "reward.custom_reward_function.reward_kwargs.workers=0: reward_option",
        ),
        (["evaluation.bootstrap=10"], "evaluation.bootstrap=10: integer"),
        (["+evaluation.arms={a_b: {}, A_b: {}}"], ": same_arm_names"),
        ([f"{SAMPLING}.top_p=7"], f"{SAMPLING}.top_p=7: top_p"),
        ([f"{SAMPLING}.top_k=0"], f"{SAMPLING}.top_k=0: top_k"),
        (["data.val_files=null"], "data.val_files=None: no_files"),
        (
            ["evaluation.arms.tree=null", "data.max_response_length=400"],
            "actor_rollout_ref.rollout.max_model_len=320: context_too_short",
        ),
        (["data.max_response_length=null"], "actor_rollout_ref.rollout.response_length=None: number"),
        (["reward.reward_model.enable=true"], "reward.reward_model.enable=True: reward_model"),
        (
            [
                "treepo.branching.budget=total_tokens",
                "treepo.branching.total_tokens=1024",
                "treepo.branching.min_width=2",
            ],
            "treepo.branching.budget=total_tokens: no_budget",
        ),
        (["+evaluation.arms.tree.fallback={order: worst}"], "evaluation.arms.tree.fallback.order=worst: choice"),
        (["+evaluation.arms.tree.run_on=2"], "evaluation.arms.tree.run_on=2: renamed_key"),
        ([f"{ROLLOUT}.name=trtllm"], f"{ROLLOUT}.name=trtllm: unfit_engine"),
        ([f"{ROLLOUT}.name=sglang"], "evaluation.seed=0: request_seed"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_refused(base, overrides, problem):
    found = [text for text in briefly(problems_of(*base, *overrides)) if text.endswith(problem)]
    assert len(found) == 1 and (found[0] == problem or found[0].startswith("evaluation.arms="))


def test_sglang_samples_without_a_seed_and_that_it_never_did_is_noted(base, capsys):
    fine = [f"{ROLLOUT}.name=sglang", "evaluation.seed=null", f"{ROLLOUT}.max_model_len=321"]
    assert main_eval.run(composed(*base, *fine), [], dry_run=True) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: {ROLLOUT}.name=sglang: trees never ran in this combination, only with vllm. See docs/support.md."
    ]
    assert main_eval.run(composed(*base), [], dry_run=True) == 0
    assert "note: " not in capsys.readouterr().err


def test_one_greedy_sample_is_fine(base):
    greedy = ["actor_rollout_ref.rollout.val_kwargs.temperature=0", "evaluation.n=1", "treepo.init_divergence=1"]
    assert [run[:2] for run in runs_of(load_evaluation(composed(*base, *greedy)))] == [("plain", 1), ("tree", 1)]


def test_a_tree_is_grown_only_as_wide_as_its_root_may_need(base):
    settings = load_evaluation(composed(*base, "treepo.init_divergence=[1,4]", "evaluation.n=[2,4]"))
    assert [run[:2] for run in runs_of(settings)] == [("plain", 4), ("tree", 4)]


def test_the_group_is_added_once_and_the_last_name_wins():
    assert with_group(["a=1"]) == ["+evaluation=compare", "a=1"]
    arguments = ["evaluation=compare", "evaluation.n=3", "+evaluation=scaling"]
    assert with_group(arguments) == ["+evaluation=scaling", "evaluation.n=3"]


# --- fingerprint -----------------------------------------------------------------------------------------------


PROBLEM = EvaluationProblem(data_source="a", row=0, prompt_ids=[1, 2], fields={"reward_model": {"ground_truth": "4"}})


def made_with(config: DictConfig, *problems: EvaluationProblem) -> dict:
    settings = load_evaluation(config)
    found = fingerprints(config, settings, problems or [PROBLEM])
    return {run.arm: json.loads(json.dumps(made)) for run, made in found.items()}


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["actor_rollout_ref.rollout.val_kwargs.temperature=0.6"], ["actor_rollout_ref.rollout.val_kwargs"]),
        (["data.max_response_length=127"], ["data.max_response_length"]),
        (["evaluation.seed=null"], ["evaluation.seed"]),
        (["evaluation.n=3"], ["evaluation.n"]),
        (["actor_rollout_ref.rollout.quantization=fp8"], ["actor_rollout_ref.rollout.quantization"]),
        (["actor_rollout_ref.rollout.max_model_len=400"], ["actor_rollout_ref.rollout.max_model_len"]),
        (
            ["+reward.custom_reward_function.reward_kwargs={wrong_score: -1}"],
            ["reward.custom_reward_function"],
        ),
    ],
)
def test_shared_sampling_keys_change_the_fingerprints_of_all_runs(base, overrides, keys):
    before, after = made_with(composed(*base)), made_with(composed(*base, *overrides))
    for arm in ("plain", "tree"):
        assert [key for key in before[arm] if before[arm][key] != after[arm][key]] == keys


def test_search_keys_matter_to_trees_only_and_training_keys_to_no_run(base):
    before = made_with(composed(*base))
    after = made_with(composed(*base, "treepo.divergence=3"))
    assert before["plain"] == after["plain"] and before["tree"] != after["tree"]
    training = ["treepo.advantage.aggregation=group_size", "treepo.dump.dir=trees", "evaluation.prompts_in_flight=2"]
    assert made_with(composed(*base, *training, "evaluation.bootstrap=500")) == before


@pytest.mark.parametrize(
    "change",
    [
        {"row": 1},
        {"prompt_ids": [1, 3]},  # another template, another tokenizer
        {"fields": {"reward_model": {"ground_truth": "5"}}},
        {"data_source": "b"},
    ],
)
def test_other_problems_are_noticed_wherever_they_come_from(base, change):
    config = composed(*base)
    before, after = made_with(config), made_with(config, replace(PROBLEM, **change))
    assert [key for key in before["plain"] if before["plain"][key] != after["plain"][key]] == ["data.val_files"]


def test_another_reward_in_the_same_file_is_noticed(base, tmp_path):
    file = tmp_path / "mine.py"
    config = composed(*base, f"reward.custom_reward_function.path={file}")
    file.write_text("def compute_score(**_): return 1.0")
    before = made_with(config)
    file.write_text("def compute_score(**_): return 0.0")
    assert made_with(config) != before


def test_a_folder_for_results_that_cannot_be_made_is_named(base, tmp_path):
    (tmp_path / "file").write_text("")
    (problem,) = problems_of(*base, f"evaluation.out_dir={tmp_path}/file/out")
    assert (problem.rule_id, problem.key) == ("output_folder", "evaluation.out_dir")


def test_another_checkpoint_in_the_same_folder_is_refused_and_replaced_on_request(base, tmp_path):
    config = composed(*base)
    settings = load_evaluation(config)
    samples = tmp_path / "samples"
    samples.mkdir()
    for run, made in fingerprints(config, settings, [PROBLEM]).items():
        (samples / run.file).write_text(json.dumps({"fingerprint": made}) + "\n")
    open_records(samples, settings, fingerprints(config, settings, [PROBLEM]))
    (tmp_path / "model/config.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        open_records(samples, settings, fingerprints(config, settings, [PROBLEM]))
    assert len(caught.value.problems) == 2
    expected = "samples of other settings: actor_rollout_ref.model.path was"
    assert all(expected in str(problem) for problem in caught.value.problems)
    again = load_evaluation(composed(*base, "evaluation.restart=true"))
    records = open_records(samples, again, fingerprints(config, again, [PROBLEM]))
    assert [own.results for own in records.values()] == [[], []]


def test_a_second_evaluation_is_kept_out_of_the_folder(tmp_path):
    with locked(str(tmp_path / "out")) as folder:
        assert folder == tmp_path / "out/samples"
        with pytest.raises(ConfigError, match="another evaluation is writing there"), locked(str(tmp_path / "out")):
            pass
    with locked(str(tmp_path / "out")):
        pass


def test_the_script_can_scale(base):
    text = (ROOT / "scripts/evaluate_qwen0.5b.sh").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("    ")]
    own = [word for word in line.split() if "=" in word]
    assert len(own) == 2
    assert [run[1] for run in runs_of(load_evaluation(composed(*base, *own)))] == [8, 8]
    scaled = load_evaluation(composed(*base, *own, "evaluation=scaling"))
    assert {run[1] for run in runs_of(scaled)} == {2, 4, 8, 16}


# --- command line ----------------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "recipe.treepo.main_eval", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_wrong_keys_are_reported_together_before_the_start(base):
    done = command(*base, "treepo.dept=3", "evaluation.n=0")
    assert done.returncode == 1 and "2 problem(s)" in done.stderr
    assert "treepo.dept=3: " in done.stderr and "Did you mean treepo.depth?" in done.stderr
    assert "evaluation.n=0: " in done.stderr


def test_importing_the_entry_point_starts_nothing_heavy():
    code = "import sys, recipe.treepo.main_eval; print(sorted({'torch', 'ray', 'vllm', 'verl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_interruption_is_reported_and_has_its_own_status(base, monkeypatch, capsys):
    def interrupt(config, settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(main_eval, "evaluate", interrupt)
    assert main_eval.run(composed(*base), [], dry_run=False) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_the_reward_in_a_fingerprint_is_all_code_that_scores():
    package = ROOT / "recipe/treepo"
    scoring = [package / "reward.py", *sorted(package.glob("answers/*.py")), *sorted(package.glob("sandbox/*.py"))]
    assert {"compare.py", "verifier_task.py"} < {file.name for file in scoring}
    expected = hashlib.sha256(b"".join(file.read_bytes() for file in scoring)).hexdigest()
    assert fingerprint.code_of("pkg://recipe.treepo.reward") == expected
    assert fingerprint.code_of(str(package / "reward.py")) == expected
