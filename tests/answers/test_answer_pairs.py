# SPDX-License-Identifier: Apache-2.0
r"""The scorer against four hand-labeled tables of answer pairs.

- ``answer_pairs.jsonl`` was available while the scorer was written.
- ``answer_pairs_blind.jsonl`` was labeled without knowledge of the scorer, and no rule was made for it. It measures the
  scorer on unseen answers.
- ``answer_pairs_review.jsonl`` comes from a search for wrong answers that an earlier scorer accepted, with right
  answers added. Rules were made for it; it excludes the holes listed in docs/how_to/reward.md.
- ``reported_answers.jsonl`` has forms that people reported as scored wrongly, with other numbers and names. The rules
  were made for it. Its second set was labeled by someone else, before anything was run.

Each rule of ``answers/`` is needed by at least one pair: without the rule, a test below fails.

A line has ``form``, ``gold`` (a ground truth as data sets spell it), ``equal`` (the label) and either ``answer`` (the
content of the box) or ``solution`` (a whole text with its boxes). ``seconds`` limits math-verify. ``why`` names a trap
or a convention; ``missed`` marks a right answer that the scorer is known to reject. Labels follow mathematics first. If
graders differ, these conventions hold. Pairs that they do not settle were left out, such as 3:4 against 3/4, or 500 cm
against 5 m.

- a rounded value does not equal the exact one; an unreduced fraction or an unexpanded product is the same value;
- the percent sign may be missing on either side (50% is 50), and a percentage is also the number (50% is 0.5);
- a unit, a degree sign or a currency may be missing on one side; two different ones are not equal;
- the left side of ``x = 5`` or ``f(x) = ...`` may be missing; two different ones are not equal;
- order counts in tuples, vectors and ratios, not in sets or in lists without parentheses;
- a named base counts; case counts in variables, not in words;
- of a choice with letter and value, "(D) 7", either part alone is right;
- the last of several boxes counts, and an unclosed box is not an answer;
- in the review table, an unfinished computation is not an answer: ``123 \times 456`` for 56088.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from recipe.treepo.reward import compute_score


def read(name: str) -> list[dict]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


PAIRS, BLIND = read("answer_pairs.jsonl"), read("answer_pairs_blind.jsonl")
REVIEW, REPORTED = read("answer_pairs_review.jsonl"), read("reported_answers.jsonl")

TIMEOUT_S = 120.0  # per pair; generous, so that a busy machine changes no verdict


def text_of(pair: dict) -> str:
    return pair["solution"] if "solution" in pair else pair["answer"]


def test_the_tables_have_no_pair_twice_and_only_known_keys():
    assert (len(PAIRS), len(BLIND), len(REVIEW), len(REPORTED)) == (480, 200, 838, 2926)
    for pair in PAIRS + BLIND + REVIEW + REPORTED:
        keys = set(pair) - {"why", "missed", "seconds"}
        assert keys in ({"form", "answer", "gold", "equal"}, {"form", "solution", "gold", "equal"}), pair
        assert isinstance(pair["equal"], bool) and str(pair["gold"]).strip(), pair
    for table in (PAIRS, BLIND, REVIEW, REPORTED):
        counts = Counter((text_of(pair), repr(pair["gold"])) for pair in table)
        assert [pair for pair, count in counts.items() if count > 1] == []


def test_every_form_has_twenty_pairs_about_half_of_them_wrong():
    labels: dict[str, list[bool]] = {}
    for pair in PAIRS:
        labels.setdefault(pair["form"], []).append(pair["equal"])
    for form, equal in labels.items():
        assert len(equal) >= 20, form
        assert 0.4 <= sum(equal) / len(equal) <= 0.6, form


def listed(pairs: list[dict]) -> str:
    return "\n".join(f"{p['form']}: {text_of(p)!r} against {p['gold']!r}, labeled {p['equal']}" for p in pairs)


@pytest.fixture(scope="module", params=[PAIRS, BLIND, REVIEW, REPORTED], ids=["known", "blind", "review", "reported"])
def table(request) -> list[dict]:
    return request.param


@pytest.fixture(scope="module")
def misjudged(table) -> list[dict]:
    """Return the pairs whose score contradicts the label; one pool of workers scores all pairs."""

    def scored_correct(pair: dict) -> bool:
        solution = pair.get("solution", f"The answer is $\\boxed{{{pair.get('answer')}}}$.")
        return (
            compute_score("answer_pairs", solution, pair["gold"], timeout_s=pair.get("seconds", TIMEOUT_S))["acc"]
            == 1.0
        )

    return [pair for pair in table if scored_correct(pair) != pair["equal"]]


def test_no_wrong_answer_is_scored_correct(misjudged):
    wrong = [pair for pair in misjudged if not pair["equal"]]
    assert not wrong, f"{len(wrong)} wrong answers are scored correct:\n{listed(wrong)}"


def test_the_right_answers_scored_wrong_are_the_known_ones(misjudged, table):
    missed = [pair for pair in misjudged if pair["equal"]]
    assert missed == [pair for pair in table if pair.get("missed")], listed(missed)
