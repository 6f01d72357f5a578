# SPDX-License-Identifier: Apache-2.0
"""A few invented rows in the original schema of each data set, with their expected results.

Also a tokenizer with one token per word.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.problems import Drop, Problem
from data_prep.sets.dapo import AFTER, BEFORE

AOPS = "https://artofproblemsolving.com/wiki/index.php/"


@dataclass(frozen=True)
class Sample:
    """A source row and the expected result of the row function."""

    row: dict[str, Any]
    expected: Problem | Drop


def _numina(problem: str, solution: str, expected: Problem | Drop, **more: Any) -> Sample:
    messages = [{"content": problem, "role": "user"}, {"content": solution, "role": "assistant"}]
    return Sample({**more, "problem": problem, "solution": solution, "messages": messages}, expected)


def _math(level: Any, answer: str, subject: str, expected: Problem | Drop, solution: str = "") -> Sample:
    row = {"problem": "How many?", "solution": solution or f"So \\boxed{{{answer}}}.", "answer": answer}
    return Sample(row | {"subject": subject, "level": level, "unique_id": f"test/{subject}/1.json"}, expected)


def _simplerl(question: str, answer: str, level: int, expected: Problem | Drop) -> Sample:
    row = {
        "input": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>",
        "answer": answer,
        "gt_answer": answer,
        "subject": "Algebra",
        "level": level,
        "question": question,
        "ground_truth_answer": answer,
        "target": answer,
        "prompt": [{"content": f"<|im_start|>user\n{question} Put it within \\boxed{{{{}}}}.", "role": "user"}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": 0, "level": 1, "question": question, "split": "train"},
    }
    return Sample(row, expected)


def _dapo(content: str, answer: Any, expected: Problem | Drop) -> Sample:
    row = {
        "data_source": "math_dapo",
        "prompt": [{"content": content, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
    }
    return Sample(row, expected)


def _olympiad(expected: Problem | Drop, **changes: Any) -> Sample:
    row = {
        "id": 1606,
        "question": "Find $n$.",
        "solution": ["First ...", "Second ..."],
        "final_answer": ["$2$"],
        "context": None,
        **{f"image_{number}": None for number in range(1, 6)},
        "modality": "Text-only",
        "difficulty": "Competition",
        "is_multiple_answer": False,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        "question_type": "Open-ended",
        "subfield": "Algebra",
        "subject": "Math",
        "language": "English",
    }
    return Sample(row | changes, expected)


def _aime(year: int, answer: Any, expected: Problem | Drop) -> Sample:
    row = {"id": 60, "problem": "Find $m+n$.", "solution": "So \\boxed{5}.", "answer": answer}
    return Sample(row | {"url": f"{AOPS}{year}_AIME_I_Problems/Problem_1", "year": str(year)}, expected)


def _competition(row: dict[str, Any], expected: Problem | Drop) -> Sample:
    return Sample(row, expected)


SAMPLES: dict[str, list[Sample]] = {
    "numina_math_tir": [
        _numina("How many?", "```python\nprint(3)\n```\nSo \\boxed{3}.", Problem("How many?", "3")),
        _numina("Prove it.", "Clear.", Drop.NO_BOX),
    ],
    "numina_math_cot": [
        _numina("How many?", "\\boxed{3}", Problem("How many?", "3", {"source": "cn_k12"}), source="cn_k12"),
        _numina("Prove it.", "Clear.", Drop.NO_BOX, source="olympiads"),
    ],
    "simplerl_math": [
        _simplerl("Solve.", "\\frac{1}{2}", 5, Problem("Solve.", "\\frac{1}{2}", {"level": "5", "subject": "Algebra"})),
        _simplerl("Solve.", " ", 3, Drop.NO_ANSWER),
    ],
    "math_level3to5": [
        _math(3, "7", "Algebra", Problem("How many?", "7", {"level": "3", "subject": "Algebra"})),
        _math(2, "7", "Algebra", Drop.NOT_SELECTED),
        _math(5, "", "Geometry", Problem("How many?", "x", {"level": "5", "subject": "Geometry"}), "\\boxed{x}"),
        _math(4, "", "Geometry", Drop.NO_BOX, "none"),
    ],
    "deepscaler": [
        Sample({"problem": "Sum?", "answer": "-\\frac{2}{3}", "solution": ""}, Problem("Sum?", "-\\frac{2}{3}")),
        Sample({"problem": "Sum?", "answer": "", "solution": "..."}, Drop.NO_ANSWER),
        Sample({"problem": "Sum?", "answer": None, "solution": "..."}, Drop.MALFORMED_ROW),
    ],
    "dapo_math_17k": [
        _dapo(f"{BEFORE}\n\nFind $k$.\n\n{AFTER}", "34", Problem("Find $k$.", "34")),
        _dapo(f"{BEFORE}\n\n{AFTER}", "34", Drop.NO_PROBLEM),
        _dapo(f"Solve this.\n\nFind $k$.\n\n{AFTER}", "34", Drop.UNKNOWN_WRAPPING),
        _dapo(f"{BEFORE}\n\nFind $k$, for which there is no other value of $n$ than 2.", "34", Drop.UNKNOWN_WRAPPING),
        _dapo(BEFORE + AFTER[1:], "34", Drop.UNKNOWN_WRAPPING),
        _dapo(f"{BEFORE}\n\nFind $k$.\n\n{AFTER}", None, Drop.MALFORMED_ROW),
    ],
    "gsm8k": [
        Sample({"question": "Cost?", "answer": "2*600=<<2*600=1200>>1200\n#### 1,200"}, Problem("Cost?", "1200")),
        Sample({"question": "Cost?", "answer": "It is #### 1\n#### $-2.5"}, Problem("Cost?", "-2.5")),
        Sample({"question": "Cost?", "answer": "no mark 5"}, Drop.NO_ANSWER),
        Sample({"question": "Cost?", "answer": "#### five"}, Drop.ODD_ANSWER),
    ],
    "math500": [
        _math(1, "(3, 4)", "Algebra", Problem("How many?", "(3, 4)", {"level": "1", "subject": "Algebra"})),
    ],
    "aime_2024": [
        _aime(2024, "033", Problem("Find $m+n$.", "33")),
        _aime(2023, "33", Drop.NOT_SELECTED),
        _aime(2024, "1000", Drop.ODD_ANSWER),
        _aime(2024, "\\frac{1}{2}", Drop.ODD_ANSWER),
        _aime(2024, None, Problem("Find $m+n$.", "5")),
    ],
    "aime_2025": [
        _competition({"problem": "Sum?", "answer": "336^\\circ", "id": "27"}, Problem("Sum?", "336")),
        _competition({"problem": "Sum?", "answer": "", "id": "28"}, Drop.NO_ANSWER),
    ],
    "amc_2023": [
        _competition({"id": 0, "question": "When?", "answer": "27.0", "url": ""}, Problem("When?", "27")),
        _competition(
            {"id": 1, "question": "When?", "answer": "9", "url": f"{AOPS}2022_AMC_12A_Problems"}, Drop.NOT_SELECTED
        ),
        _competition(
            {"id": 2, "question": "When?", "answer": "9", "url": f"{AOPS}2023_AMC_12A_Problems"}, Problem("When?", "9")
        ),
    ],
    "minerva": [
        _competition({"question": "Mass?", "answer": "4.5e33"}, Problem("Mass?", "4.5 \\times 10^{33}")),
        _competition({"question": "Mass?", "answer": "1E-05"}, Problem("Mass?", "1 \\times 10^{-5}")),
        _competition({"question": "Mass?", "answer": "\\arctan{10}"}, Problem("Mass?", "\\arctan{10}")),
        _competition({"question": "Mass?", "answer": ""}, Drop.NO_ANSWER),
    ],
    "olympiad_bench": [
        _olympiad(Problem("Find $n$.", "$2$", {"subject": "Algebra"})),
        _olympiad(Problem("Let $x=1$.\n\nFind $n$.", "$2$", {"subject": "Algebra"}), context="Let $x=1$."),
        _olympiad(
            Problem("Find $n$.", "$-1$, $1$", {"subject": "Algebra"}),
            final_answer=["$-1$", "$1$"],
            is_multiple_answer=True,
        ),
        _olympiad(Problem("Find $n$.", "12", {"subject": "Algebra", "unit": "cm"}), final_answer=["12"], unit="cm"),
        _olympiad(Drop.ODD_ANSWER, final_answer=["1", "2"]),
        _olympiad(Drop.NO_ANSWER, final_answer=["1", ""], is_multiple_answer=True),
        _olympiad(Drop.NO_ANSWER, final_answer=None),
        _olympiad(Drop.NO_ANSWER, final_answer=[], question_type="Theorem proof"),
        _olympiad(Drop.TOLERANCE, error="0.01"),
        _olympiad(Drop.NOT_SELECTED, language="Chinese"),
        _olympiad(Drop.NEEDS_IMAGE, image_1={"bytes": b"x", "path": None}),
        _olympiad(Drop.NEEDS_IMAGE, modality="Multimodal"),
    ],
}
SAMPLES["gsm8k_test"] = SAMPLES["gsm8k"]

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows to a parquet file; make its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write rows with one JSON value per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer with one token per word; "<s>" is also a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "bos_token": {"content": "<s> "}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
