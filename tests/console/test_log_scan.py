# SPDX-License-Identifier: Apache-2.0
"""Count of warnings and errors in lines of verl, Ray and vLLM; the examples are from a real log."""

import pytest

from recipe.treepo.console.log_scan import LogScan, last_lines_of, warning_kind, warnings_line

RUNNER = "\x1b[36m(TaskRunnerV1 pid=3498)\x1b[0m "
SERVER = "\x1b[36m(vLLMHttpServer pid=4368)\x1b[0m "


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/x/verl/workers/engine/__init__.py:32: UserWarning: torchtitan engine is not available", "UserWarning"),
        ("  warnings.warn(f'torchtitan engine is not available: {e!r}', stacklevel=1)", None),
        ("WARNING 11-29 08:08:53 [importing.py:45] Triton is installed, but does not include CPU", "vllm"),
        ("WARNING:2026-11-29 08:08:56,968:IPC is not supported on your devices.", "verl"),
        ("2026-11-29 08:10:49,688 - WARNING - transfer_queue.utils.common - target_num_threads 8", "transfer_queue"),
        ("2026-11-29 08:07:54,913\tWARNING authentication_token_setup.py:85 -- Token", "ray"),
        ("[W1129 08:10:07.255069889 utils.cpp:68] Warning: NUMA binding", "torch"),
        ("[rank0]:W1129 08:11:27.640000 4125 torch/fx/_symbolic_trace.py:56] is_fx_tracing", "torch"),
        ("Warning: Failed to set NUMA affinity", "other"),
        ("INFO:2026-11-29 08:08:35,335:no warning here", None),
        ("", None),
    ],
)
def test_a_warning_is_counted_where_it_comes_from(line, kind):
    assert warning_kind(line) == kind


def test_warnings_are_one_line():
    lines = [f"{RUNNER}x.py:1: UserWarning: a", f"{SERVER}(Worker pid=4550) WARNING 11-29 08:10:07 [x.py:1] b"]
    scan = LogScan().add([lines[0], *[lines[1]] * 1200])
    assert warnings_line(scan.warnings) == "1,201: 1,200 vllm, 1 UserWarning"
    assert warnings_line(LogScan().warnings) is None
    many = LogScan().add(f"2026 - WARNING - logger{number} - x" for number in range(8)).add(["Warning: x"])
    assert warnings_line(many.warnings) == "9: " + ", ".join(f"1 logger{n}" for n in range(5)) + ", 4 other"


FAILED_PROMPT = """\
ERROR:2026-11-29 08:12:00,001:Error in _run_prompt for uid=7
Traceback (most recent call last):
  File "/v/site-packages/verl/trainer/ppo/v1/agent_loop_tq.py", line 9, in _run_agent_loop
    await self._compute_score(outputs, kwargs=kwargs)
ray.exceptions.RayTaskError(ZeroDivisionError): \x1b[36mray::RewardLoopWorker.compute_score()\x1b[39m (pid=5)
  File "/v/site-packages/verl/experimental/reward_loop/reward_loop.py", line 3, in compute_score
    return await self.reward_manager.run_single(data)
  File "/home/me/my_reward.py", line 5, in compute_score
    return 1 / 0
           ~~^~~
ZeroDivisionError: division by zero
INFO:2026-11-29 08:12:00,002:next
"""


def test_a_traceback_is_counted_by_its_cause_though_other_processes_write_between():
    lines = []
    for failed in FAILED_PROMPT.splitlines():
        lines += [f"{RUNNER}{failed}", f"{SERVER}GET / 200"]
    error = LogScan().add(lines * 3).most_frequent_error()
    assert (error.kind, error.text, error.count) == ("ZeroDivisionError", "division by zero", 3)
    assert error.frames == ("/home/me/my_reward.py:5 compute_score",)


def test_an_error_that_is_known_does_not_count():
    lines = ["Traceback (most recent call last):", '  File "a.py", line 1, in f', "ValueError: one"]
    other = [*lines[:-1], "module.OtherError"]
    scan = LogScan().add(lines * 2 + other)
    assert scan.most_frequent_error().text == "one"
    assert scan.most_frequent_error(besides=("ValueError", "one\ntwo")).kind == "OtherError"
    assert LogScan().add(lines).most_frequent_error(besides=("ValueError", "one")) is None


def test_lines_of_a_logger_are_a_traceback_too():
    prefix = f"{SERVER}(EngineCore pid=4368) ERROR 11-29 08:10:11 [core.py:842] "
    lines = ["Traceback (most recent call last):", '  File "/v/site-packages/vllm/x.py", line 3, in f', "OSError: full"]
    error = LogScan().add(prefix + line for line in lines).most_frequent_error()
    assert (error.kind, error.text, error.frames) == ("OSError", "full", ("/v/site-packages/vllm/x.py:3 f",))


def test_recursion_without_end_and_a_log_that_ends_early_do_no_harm():
    frame = '  File "a.py", line 1, in f'
    assert LogScan().add(["Traceback (most recent call last):", *[frame] * 5000]).errors == {}
    assert LogScan().add(["Traceback (most recent call last):", frame]).errors == {}


def test_the_last_lines_of_a_process_are_its_own():
    lines = [f"{RUNNER}{number}" for number in range(9)] + [f"{SERVER}x", f"{RUNNER} ", "(A pid=34980) y"]
    assert last_lines_of(3498, lines, most=2) == ["7", "8"]
    assert last_lines_of(1, lines) == []
