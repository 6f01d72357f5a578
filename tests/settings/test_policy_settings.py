# SPDX-License-Identifier: Apache-2.0
"""The keys of the user's policies: rules, loading, and the trial on scripted trees."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pandas
import pytest
from omegaconf import OmegaConf

from helpers.configs import briefly, config_of, problems_of
from recipe.treepo.settings.data_files import first_row
from recipe.treepo.settings.schema import POLICY_METHODS, load_settings
from recipe.treepo.verl_adapters import policy_trial
from recipe.treepo.verl_adapters.user_code import own_policies, policy_problems

POLICIES = """
import math
import time


class Branching:
    def __init__(self, most=2):
        self.most = most

    def children(self, paths, room, context):
        assert context.row["data_source"]
        left = room - len(paths)
        counts = []
        for path in paths:
            counts.append(1 + min(self.most - 1, left))
            left -= counts[-1] - 1
        return counts


class TooMany(Branching):
    def children(self, paths, room, context):
        return [room + 1] * len(paths)


class Late(Branching):
    async def children(self, paths, room, context):
        return [1] * len(paths)


class Fallback:
    def resume(self, paths, count, context):
        return [(None, 0)] * count


class Beyond:
    def resume(self, paths, count, context):
        return [(paths[0], paths[0].length)] * count


class Rule:
    def ends(self, path, context):
        return "7" in path.text


class Words:
    def ends(self, path, context):
        return path.text


class Score:
    async def score(self, path, context):
        return path.text.count("7") / path.length


class Slow:
    async def score(self, path, context):
        time.sleep(60)


class Exits:
    async def score(self, path, context):
        raise SystemExit(0)


class Answer:
    async def score(self, path, context):
        return float(context.row["extra_info"]["answer"])


class Counts(Branching):
    calls = 0

    def children(self, paths, room, context):
        Counts.calls += 1
        return [1 + (number == Counts.calls % len(paths) and room > len(paths)) for number in range(len(paths))]


class First(Fallback):
    def resume(self, paths, count, context):
        return [(paths[0], 0)] * count


class Now:
    def score(self, path, context):
        return 1.0


class Nan:
    async def score(self, path, context):
        return math.nan


class Credit:
    def credit(self, forest, rewards):
        return forest.at(forest.mean_over_group(rewards))


class Flat:
    def credit(self, forest, rewards):
        return rewards


def function(**options):
    return Branching()
"""
GOOD = {"branching": "Branching", "fallback": "Fallback", "stopping_rules": "Rule", "score": "Score"}


@pytest.fixture
def file(tmp_path) -> str:
    (tmp_path / "policies.py").write_text(POLICIES)
    return str(tmp_path / "policies.py")


def settings_of(file: str, **names: Any):
    groups = {group: {"custom": {"path": file, "name": name}} for group, name in names.items()}
    return load_settings(config_of({"init_divergence": 2, **groups}))


def problem_of(settings, row=None):
    [problem] = policy_problems(settings, lambda: row or {})
    assert "\n" not in str(problem)
    return problem


def test_policies_are_loaded_made_with_their_options_and_tried(file):
    settings = settings_of(file, **GOOD, advantage="Credit")
    assert policy_problems(settings, dict) == []
    config = config_of({"branching": {"custom": {"path": file, "name": "Branching", "options": {"most": 3}}}})
    policies = own_policies(load_settings(config))
    assert (policies.branching.most, policies.fallback, policies.scorer) == (3, None, None)
    assert policy_problems(load_settings(config_of({})), dict) == []


def test_the_trial_works_inside_an_event_loop(file):
    async def problems():
        return policy_problems(settings_of(file, **GOOD), dict)

    assert asyncio.run(problems()) == []


@pytest.mark.parametrize(
    ("group", "name", "rule"),
    [
        ("branching", "TooMany", "TooMany.children returned [5, 5, 5, 5]: 20 children, but room for 4 (trial 0, node "),
        ("fallback", "Beyond", "Beyond.resume returned 8: the token must be from 0 to 7 (trial 0, node 0)"),
        ("stopping_rules", "Words", "must be True or False (trial 0, node "),
        ("score", "Nan", "Nan.score returned nan: must be a finite number (trial 0, node "),
        ("score", "Exits", "Exits.score raised SystemExit: 0 (trial 0, node "),
        ("branching", "Counts", "a tree is another one when it is grown again: take random numbers from context.rng"),
        ("fallback", "First", "First.resume raised IndexError: tuple index out of range (trial 0, node root)"),
        ("advantage", "Flat", "Flat.credit returned (32,): must have the shape (trajectories, levels), (32, "),
    ],
)
def test_a_policy_with_wrong_results_is_found_on_a_scripted_tree(file, group, name, rule):
    problem = problem_of(settings_of(file, **{group: name}))
    assert briefly([problem]) == [f"treepo.{group}.custom.name={name}: policy_trial"]
    assert rule in problem.rule


def test_the_trial_has_a_row_of_the_data_set_and_can_be_left_out(file):
    settings = settings_of(file, score="Answer")
    assert policy_problems(settings, lambda: {"extra_info": {"answer": "7"}}) == []
    problem = problem_of(settings)
    assert "Answer.score raised KeyError: 'answer' (trial 0, node " in problem.rule
    assert problem.remedy.endswith("or skip the trial with treepo.policy_trial=false.")
    assert policy_problems(replace(settings, policy_trial=False), dict) == []


def test_a_policy_that_hangs_does_not_hold_up_the_start(file, monkeypatch):
    monkeypatch.setattr(policy_trial, "SECONDS", 0.2)
    problem = problem_of(settings_of(file, score="Slow"))
    assert briefly([problem]) == ["treepo.policy_trial=True: policy_trial_time"]


def test_the_first_row_of_the_data_is_found_in_any_file(tmp_path):
    rows = [{"data_source": "a", "extra_info": {"index": 4}}, {"data_source": "b"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pandas.DataFrame(rows[:1]).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    for name in ("rows.jsonl", "rows.json", "rows.parquet"):
        files = [f"{tmp_path}/none.parquet", f"{tmp_path}/damaged.parquet", f"{tmp_path}/{name}"]
        row = first_row(OmegaConf.create({"data": {"train_files": files}}), "data.train_files")
        assert (row["data_source"], row["extra_info"]) == ("a", {"index": 4})
    assert first_row(OmegaConf.create({"data": {"train_files": None}}), "data.train_files") == {}


@pytest.mark.parametrize("group", POLICY_METHODS)
def test_a_class_that_cannot_be_the_policy_is_a_problem(file, group):
    key = f"treepo.{group}.custom"
    assert briefly([problem_of(settings_of(file, **{group: "Nobody"}))]) == [f"{key}.name=Nobody: class_not_found"]
    assert briefly([problem_of(settings_of("none.py", **{group: "Rule"}))]) == [f"{key}.path=none.py: class_not_loaded"]
    other = "Rule" if group != "stopping_rules" else "Branching"
    problem = problem_of(settings_of(file, **{group: other}))
    assert briefly([problem]) == [f"{key}.name={other}: not_a_policy"] and POLICY_METHODS[group] in problem.rule
    assert problem_of(settings_of(file, **{group: "function"})).rule_id == "not_a_policy"


def test_only_a_score_is_a_coroutine(file):
    assert briefly([problem_of(settings_of(file, branching="Late"))]) == [
        "treepo.branching.custom.name=Late: coroutine"
    ]
    assert briefly([problem_of(settings_of(file, score="Now"))]) == ["treepo.score.custom.name=Now: coroutine"]


def test_options_that_the_class_does_not_take_are_a_problem(file):
    config = config_of({"branching": {"custom": {"path": file, "name": "Branching", "options": {"z": 1}}}})
    problem = problem_of(load_settings(config))
    assert briefly([problem]) == ["treepo.branching.custom.options={'z': 1}: options_refused"]


OWN = {"path": "own.py", "name": "Own"}


@pytest.mark.parametrize(
    ("treepo", "expected"),
    [
        ({"branching": {"custom": {"path": "own.py"}}}, ["treepo.branching.custom.name=null: path_without_name"]),
        ({"fallback": {"custom": {"name": "Own"}}}, ["treepo.fallback.custom.path=null: path_without_name"]),
        (
            {"stopping_rules": {"custom": {"options": {"x": 1}}}},
            ["treepo.stopping_rules.custom.options={'x': 1}: options_without_class"],
        ),
        ({"branching": {"share": "score"}}, ["treepo.branching.share=score: no_scores"]),
        ({"fallback": {"order": "lower_score_first"}}, ["treepo.fallback.order=lower_score_first: no_scores"]),
        ({"score": {"prune_below": 0}}, ["treepo.score.prune_below=0.0: no_scores"]),
        ({"score": {"custom": OWN, "prune_below": 0.5}, "branching": {"share": "score"}}, []),
        ({"sampler": "plain", "score": {"custom": OWN}}, ["treepo.score.custom.path=own.py: policy_with_plain"]),
        ({"advantage": {"custom": OWN}}, ["treepo.advantage.custom.path=own.py: custom_credit"]),
        ({"score": {"prune_above": "much"}}, ["treepo.score.prune_above=much: finite_number"]),
    ],
)
def test_keys_of_policies_go_together(treepo, expected):
    assert [problem for problem in briefly(problems_of(config_of(treepo))) if "missing_file" not in problem] == expected


def test_the_custom_estimator_needs_a_class():
    config = config_of({})
    config.algorithm.adv_estimator = "treepo_custom"
    assert briefly(problems_of(config)) == ["treepo.advantage.custom.path=None: custom_credit"]
    config = config_of({"advantage": {"custom": OWN}})
    config.algorithm.adv_estimator = "treepo_custom"
    assert [problem.rule_id for problem in problems_of(config)] == ["missing_file"]
