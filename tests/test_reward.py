# SPDX-License-Identifier: Apache-2.0
"""The reward function: hand-labeled answers, hostile answers, worker processes, and calls as in verl."""

import asyncio
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.processes import children_of
from recipe.treepo import reward
from recipe.treepo.reward import METRICS, compute_score, option_problems
from recipe.treepo.sandbox.verifier import TASK_FILE, get_pool

KEYS = {"score", "acc", "reward_boxed", "reward_too_long", "reward_timeout", "reward_crash"}
TOWER = r"\boxed{9^{9^{9^9}}}"

# (content of the box, ground truth, whether a mathematician calls it correct)
PAIRS = [
    ("42", "42", True),
    ("42", "43", False),
    ("42.0", "42", True),
    ("042", "42", True),
    ("-7", "7", False),
    ("\u22127", "-7", True),
    ("1,234", "1234", True),
    ("1{,}234", "1234", True),
    ("1,\\!234", "1234", True),
    ("1, 234", "1234", False),
    ("12 34", "1234", False),
    ("$42$", "42", True),
    ("42.", "42", True),
    (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
    (r"\frac12", r"\frac{1}{2}", True),
    ("1/2", r"\frac{1}{2}", True),
    ("0.5", r"\frac{1}{2}", True),
    (r"\frac{2}{4}", "1/2", True),
    (r"\frac{1}{3}", "1/2", False),
    ("0.333", r"\frac{1}{3}", False),
    (r"-\frac{1}{2}", r"\frac{-1}{2}", True),
    (r"\sqrt{8}", r"2\sqrt{2}", True),
    (r"\sqrt{8}", r"2\sqrt{3}", False),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
    (r"2^{10}", "1024", True),
    (r"3!", "6", True),
    (r"\pi", "3.14", False),
    (r"\sqrt{2}+10^{-20}", r"\sqrt{2}", False),
    ("5...", "5", False),
    (r"e^{-50}", "0", False),
    (r"(1+i)^2", "2i", True),
    (r"\frac{1}{i}", "-i", True),
    (r"\frac{1+i}{2}", r"\frac{1}{1-i}", True),
    (r"e^{i\pi/2}", "i", True),
    (r"(1+i)^2", "-2i", False),
    (r"3\mathbf{i}-2\mathbf{j}", r"-2\mathbf{j}+3\mathbf{i}", True),
    (r"\mathbf{i}^2\mathbf{j}", r"-\mathbf{j}", False),
    (r"1<x\le 2", "(1,2]", True),
    (r"1<x\le 2", "[1,2]", False),
    (r"-3\le x\le 3", r"|x|\le 3", True),
    (r"-3\le x< 3", r"|x|\le 3", False),
    (r"2\pi", r"\pi \cdot 2", True),
    ("x^2+2x+1", "(x+1)^2", True),
    ("x^2+2x-1", "(x+1)^2", False),
    ("(x-1)(x+1)", "x^2-1", True),
    ("2x+3", "3+2x", True),
    ("2x", "2y", False),
    ("ba", "ab", True),
    ("x=5", "5", True),
    ("x=6", "5", False),
    ("y=2x+1", "y = 1 + 2x", True),
    ("(1,2)", "(1, 2)", True),
    ("(2,1)", "(1,2)", False),
    (r"\left(1,\frac{1}{2}\right)", "(1, 0.5)", True),
    (r"\{2,1\}", r"\{1,2\}", True),
    (r"\{1,2,3\}", r"\{1,2\}", False),
    ("1,2,3", "2", False),
    (r"5 \text{ or } 6", "5", False),
    (r"[0,1]", r"[0,1]", True),
    (r"(0,1)", r"[0,1]", False),
    (r"[3,\infty)", r"x \geq 3", True),
    (r"\infty", r"\infty", True),
    (r"-\infty", r"\infty", False),
    (r"5\text{ cm}", "5", True),
    ("5", r"5\text{ cm}", True),
    (r"30^\circ", "30", True),
    (r"50\%", r"50\%", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
    (r"\begin{pmatrix}2\\1\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
    ("1+2i", "2i+1", True),
    (r"\text{(C)}", "C", True),
    (r"\textbf{C.}", "C", True),
    ("D", "C", False),
    ("c", "C", False),
    ("yes", "Yes", True),
    ("No", "Yes", False),
    (r"\text{Monday}", "Monday", True),
    ("elub", "blue", False),
    ("on", "no", False),
    ("7", r"\boxed{7}", True),
    ("\x00", "5", False),
    ("\u4e94", "5", True),
]


@pytest.fixture(scope="module", autouse=True)
def warm_worker() -> None:
    """Start the first worker, so that time limits below do not include its imports."""
    assert compute_score("test", r"\boxed{\sqrt{4}}", "2", timeout_s=60)["score"] == 1.0


@pytest.mark.parametrize(("answer", "gold", "correct"), PAIRS)
def test_boxed_answer_is_scored_as_labelled(answer: str, gold: str, correct: bool) -> None:
    result = compute_score("test", f"Therefore the answer is \\boxed{{{answer}}}.", gold, timeout_s=60)
    assert result["score"] == result["acc"] == float(correct)
    assert result["reward_boxed"] == 1.0
    assert result["reward_timeout"] == result["reward_crash"] == 0.0


@pytest.mark.parametrize(
    ("solution", "require_box", "correct"),
    [
        (r"\boxed{3}, no, \boxed{5}", False, True),
        (r"\boxed{5}, no, \boxed{3}", False, False),
        ("The answer is 5.", False, True),
        ("The answer is 5.", True, False),
        ("5 apples and 6 pears", False, False),
        (r"The answer is \boxed{5", False, False),
        (r"5, so \boxed{}", False, False),
        (r"\boxed{5} but wait \boxed{5", False, False),
        (r"\boxed{5}}", False, True),
        ("", False, False),
    ],
)
def test_the_last_box_then_the_last_number_is_the_answer(solution: str, require_box: bool, correct: bool) -> None:
    assert compute_score("test", solution, "5", require_box=require_box)["acc"] == float(correct)


R1 = {"treepo_thinking": {"open": "<think>", "close": "</think>", "opened": True}}


@pytest.mark.parametrize(
    ("solution", "thinking", "extra_info", "boxed", "correct"),
    [
        (r"\boxed{6}</think>\boxed{5}", None, None, True, True),
        (r"\boxed{5}</think>So it is 5.", None, None, False, True),
        (r"\boxed{5}</think>", None, None, False, False),
        (r"<think>\boxed{5}", None, None, False, False),
        (r"\boxed{5}", None, None, True, True),
        (r"\boxed{5}", None, {"index": 1}, True, True),
        (r"\boxed{5}", None, R1, False, False),  # an unfinished thought that the prompt opened
        (r"\boxed{6}</think>\boxed{5}", None, R1, True, True),
        (r"\boxed{5}", {"opened": True}, None, False, False),
        (r"\boxed{5}", {"opened": True}, {"index": 1}, False, False),
        (r"\boxed{5}", {"opened": False}, R1, False, False),  # what training knows has priority
        (r"[T]\boxed{6}[/T]\boxed{5}", {"open": "[T]", "close": "[/T]"}, None, True, True),
        (r"[T]\boxed{5}", {"open": "[T]", "close": "[/T]"}, None, False, False),
        (r"<think>\boxed{5}", "off", None, True, True),
        (r"<think>\boxed{5}", None, {"treepo_thinking": {"open": "", "close": "", "opened": False}}, True, True),
    ],
)
def test_only_the_text_behind_the_thoughts_is_scored(solution, thinking, extra_info, boxed, correct) -> None:
    result = compute_score("test", solution, "5", extra_info, thinking=thinking)
    assert (result["reward_boxed"], result["acc"], result["score"]) == (boxed, correct, correct)


POISON = {
    "power tower": TOWER,
    "factorial": r"\boxed{100000000!}",
    "unclosed box": r"\boxed{\frac{1}{2",
    "unbalanced parentheses": r"\boxed{" + "(" * 900 + "}",
    "deep nesting": r"\boxed{" + r"\sqrt{" * 100 + "2" + "}" * 101,
    "empty": "",
    "empty box": r"\boxed{}",
    "100 kB of text": "x" * 100_000,
    "100 kB in a box": r"\boxed{" + "9" * 100_000 + "}",
    "100 kB of boxes": r"\boxed{" * 14_000,
    "control characters": "\\boxed{\x00\x07\x1b[2J\r\n\x7f1/7}",
    "lone surrogate": "\\boxed{\ud800 + 1}",
    "code": r"\boxed{__import__('os').abort()}",
}


@pytest.mark.parametrize("name", POISON)
def test_poisoned_answer_is_wrong_within_5_s_and_the_next_is_scored(name: str) -> None:
    started = time.monotonic()
    # Only one case waits for the default limit.
    options = {} if name == "power tower" else {"timeout_s": 0.5}
    result = compute_score("test", POISON[name], "5", **options)
    assert time.monotonic() - started < 5.0
    assert result["score"] == 0.0 and set(result) == set(METRICS) == KEYS
    assert compute_score("test", r"\boxed{\sqrt{\frac{1}{4}}}", "0.5", timeout_s=60)["score"] == 1.0


def test_a_timeout_is_counted_and_the_worker_goes_on() -> None:
    pool = get_pool(workers=2, memory_mb=1_024)
    compute_score("test", r"\boxed{\sqrt{4}}", "2")
    before = {worker.process.pid for worker in pool.workers()}
    result = compute_score("test", TOWER, "5", timeout_s=0.3)
    assert result["reward_timeout"] == 1.0 and result["reward_crash"] == 0.0
    assert {worker.process.pid for worker in pool.workers()} == before
    assert [children_of(pid) for pid in before] == [[]] * len(before)  # the copy is gone and reaped
    assert compute_score("test", r"\boxed{\sqrt{4}}", "2", timeout_s=60)["acc"] == 1.0


def test_wrong_and_correct_scores_are_options_and_acc_stays_a_share() -> None:
    right = compute_score("test", r"\boxed{5}", "5", correct_score=2.0, wrong_score=-1.0)
    wrong = compute_score("test", r"\boxed{6}", "5", correct_score=2.0, wrong_score=-1.0)
    assert (right["score"], right["acc"]) == (2.0, 1.0)
    assert (wrong["score"], wrong["acc"]) == (-1.0, 0.0)


def test_answer_over_the_limit_is_wrong_without_being_parsed() -> None:
    result = compute_score("test", r"\boxed{" + "x+" * 20 + "0}", "20x", max_answer_chars=40)
    assert result["reward_too_long"] == 1.0 and result["score"] == 0.0
    assert compute_score("test", r"\boxed{" + "x+" * 19 + "0}", "19x", max_answer_chars=40, timeout_s=60)["score"] == 1


def test_a_longer_answer_is_right_if_it_is_the_same_text() -> None:
    for length in (41, 5_000):
        gold = "7" * length
        result = compute_score("test", f"\\boxed{{ {gold} }}", gold, max_answer_chars=40)
        assert (result["reward_too_long"], result["acc"]) == (1.0, 1.0)
        assert compute_score("test", f"\\boxed{{{gold}.0}}", gold, max_answer_chars=40)["acc"] == 0.0


def test_all_bad_options_are_named_at_once() -> None:
    with pytest.raises(ValueError) as error:
        compute_score("test", "5", "5", timeout_s=0, workers=1.5, numberfallback=False, no_box_score=0.5)
    problems = str(error.value).removeprefix("reward.custom_reward_function.reward_kwargs: ")
    parts = ("numberfallback=False: unknown", "timeout_s=0: ", "workers=1.5: ", "no_box_score=0.5: ", "600", "64")
    assert all(part in problems for part in parts)
    assert "use one of correct_score, wrong_score, no_box_score, require_box, timeout_s" in problems


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, []),
        ({"correct_score": 1, "wrong_score": -0.5, "no_box_score": -1.0}, []),
        ({"correct_score": 0.0}, ["correct_score"]),
        ({"correct_score": float("nan")}, ["correct_score"]),
        ({"wrong_score": "0"}, ["wrong_score"]),
        ({"require_box": "true", "timeout_s": True}, ["timeout_s", "require_box"]),
        ({"max_answer_chars": 4_001, "memory_mb": 63}, ["max_answer_chars", "memory_mb"]),
        ({"memory_mb": 256.0, "workers": 2.0}, ["workers", "memory_mb"]),  # integers are required
        ({"correct_score": 10**400}, ["correct_score"]),  # too large for a float
        ({"thinking": {"opened": True}}, []),
        ({"thinking": "on"}, ["thinking"]),
        ({"thinking": {"open": "a", "close": "a"}}, ["thinking"]),
    ],
)
def test_each_bad_option_is_named(options: dict, named: list[str]) -> None:
    assert [key for key, *_ in option_problems(options)] == named


def test_the_options_that_are_checked_are_those_of_the_function() -> None:
    parameters = inspect.signature(compute_score).parameters.values()
    assert reward._DEFAULTS == {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_keys_that_verl_adds_are_accepted() -> None:
    extra = {"reward_router_address": "somewhere", "reward_model_tokenizer": None}
    assert compute_score("test", "5", "5", extra_info={"num_turns": 1}, **extra)["score"] == 1.0


@pytest.mark.parametrize("gold", [None, "", "  ", float("nan"), "some work ####"])
def test_a_blank_ground_truth_is_an_error_not_a_score(gold: str | float | None) -> None:
    with pytest.raises(ValueError, match=r"must not be blank \(data source 'numina'\)"):
        compute_score("numina", "5", gold)


@pytest.mark.parametrize("gold", [["70"], {"answer": 70}, float("-inf"), b"70"])
def test_other_ground_truths_than_text_and_finite_numbers_are_errors(gold: object) -> None:
    with pytest.raises(ValueError, match=r"must be text or a finite number \(data source 'numina'\)"):
        compute_score("numina", r"\boxed{70}", gold)


def test_numbers_may_be_ground_truths() -> None:
    assert compute_score("test", r"\boxed{5}", 5)["score"] == 1.0
    assert compute_score("test", r"\boxed{1/2}", 0.5)["score"] == 1.0
    assert compute_score("test", r"\boxed{0.00001}", 1e-05)["score"] == 1.0
    assert compute_score("test", r"\boxed{e-5}", 1e-05)["score"] == 0.0
    assert compute_score("test", r"\boxed{5}", 5.0)["score"] == 1.0


def test_a_ground_truth_behind_hash_marks_is_read() -> None:
    assert compute_score("gsm8k", r"\boxed{72}", "48/2 = 24 #### no\n48+24 = 72\n#### 72")["acc"] == 1.0
    assert compute_score("gsm8k", r"\boxed{24}", "48/2 = 24\n#### 72")["acc"] == 0.0


def test_threads_share_workers_and_one_poison_spoils_no_other_score() -> None:
    """Honest answers have a generous time limit, so that a busy machine changes no verdict."""
    jobs = [(f"\\boxed{{\\sqrt{{{n * n}}}}}", f"{n}", 1.0, 60.0) for n in range(1, 31)]
    jobs += [(f"\\boxed{{\\sqrt{{{n}}}}}", "0.5", 0.0, 60.0) for n in range(8, 13)]
    jobs.insert(5, (TOWER, "5", 0.0, 1.0))
    with ThreadPoolExecutor(8) as threads:
        scores = list(threads.map(lambda job: compute_score("t", job[0], job[1], timeout_s=job[3])["score"], jobs))
    assert scores == [expected for _, _, expected, _ in jobs]
    assert len(get_pool(workers=2, memory_mb=1_024).workers()) <= 2


def test_it_runs_in_an_event_loop_outside_the_main_thread() -> None:
    """As in a Ray actor: the loop runs outside the main thread, and verl calls a sync function in its executor."""
    results: list[float] = []

    async def score() -> None:
        loop = asyncio.get_running_loop()
        assert threading.current_thread() is not threading.main_thread()
        results.append(compute_score("test", r"\boxed{\sqrt{16}}", "4", timeout_s=60)["score"])
        other = partial(compute_score, "test", r"\boxed{\sqrt{25}}", "5", timeout_s=60)
        result = await loop.run_in_executor(None, other)
        results.append(result["score"])

    thread = threading.Thread(target=lambda: asyncio.run(score()))
    thread.start()
    thread.join(60)
    assert results == [1.0, 1.0]


def test_verl_loads_it_by_path_outside_the_repository(tmp_path: Path) -> None:
    """As in verl's load_module: from the file, under a made-up name that is not in sys.modules."""
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("custom_module_1", {str(ROOT / "recipe/treepo/reward.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
verl_arguments = dict(data_source="d", solution_str="\\\\boxed{{\\\\sqrt{{4}}}}", ground_truth="2", extra_info={{}})
print(module.compute_score(**verl_arguments)["score"])
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "1.0", done.stderr


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> list[Path]:
    """Two checkouts; in the second one, all answers agree."""
    folders = [tmp_path_factory.mktemp("checkout") for _ in range(2)]
    for folder in folders:
        for name in ("answers", "sandbox"):
            shutil.copytree(ROOT / "recipe/treepo" / name, folder / "recipe/treepo" / name)
        for name in ("__init__.py", "reward.py"):
            shutil.copy(ROOT / "recipe/treepo" / name, folder / "recipe/treepo" / name)
    with (folders[1] / "recipe/treepo/answers/compare.py").open("a") as file:
        file.write("\n\ndef compare_text(answer, gold):\n    return True\n")
    return folders


@pytest.mark.parametrize("imported", ["", "import recipe.treepo.sandbox"], ids=["fresh", "imported"])
def test_loaded_by_path_it_scores_with_its_own_modules_or_refuses(imported: str, copies: list[Path]) -> None:
    """A process of one checkout or installation loads the file of another one."""
    code = f"""
{imported}
import importlib.util, sys
spec = importlib.util.spec_from_file_location("custom_module_1", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.compute_score("d", sys.argv[2], "2")["score"])
"""

    def load(file_of: Path, found: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, str(file_of / "recipe/treepo/reward.py"), r"\boxed{1}"]
        environment = os.environ | {"PYTHONPATH": str(found)}
        return subprocess.run(command, cwd=found, env=environment, capture_output=True, text=True)

    first, second = copies
    for folder, score in ((first, "0.0"), (second, "1.0")):
        done = load(folder, folder)
        assert done.stdout.strip() == score, done.stderr
        (other,) = {first, second} - {folder}
        done = load(folder, other)
        assert (done.returncode, done.stdout) == (1, "")
        message = done.stderr.splitlines()[-1]
        assert message.startswith(
            f"ImportError: reward.custom_reward_function.path={folder}/recipe/treepo/reward.py: Python imports "
            f"recipe.treepo from another folder, {other}/recipe/treepo."
        )
        assert "Use path=pkg://recipe.treepo.reward, or install" in message


def test_a_function_loaded_by_path_can_be_pickled() -> None:
    """verl's remote reward manager pickles the function by value, since it has no module."""
    cloudpickle = pytest.importorskip("cloudpickle")
    spec = importlib.util.spec_from_file_location("custom_module_2", ROOT / "recipe/treepo/reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    copy = cloudpickle.loads(cloudpickle.dumps(module.compute_score))
    assert copy("test", r"\boxed{\sqrt{4}}", "2")["score"] == 1.0


def test_it_is_synchronous_so_verl_runs_it_in_a_thread() -> None:
    assert not inspect.iscoroutinefunction(compute_score)


def test_worker_and_caller_import_nothing_heavy() -> None:
    """Each in a fresh interpreter: the worker after its first comparison, and the module that verl loads."""
    heavy = ["torch", "ray", "vllm", "verl", "transformers", "numpy", "pandas"]
    worker = "import sys, runpy; m = runpy.run_path(sys.argv[1]); assert m['load_checker']()('1/2', '0.5')"
    for code in (worker, "import sys, recipe.treepo.reward"):
        report = f"; print(sorted({{m.split('.')[0] for m in sys.modules}} & set({heavy})))"
        command = [sys.executable, "-c", code + report, str(TASK_FILE)]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr
