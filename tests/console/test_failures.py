# SPDX-License-Identifier: Apache-2.0
"""The cause of a failed run, including causes wrapped by Ray."""

import pickle

import pytest

from recipe.treepo.console.failures import MESSAGE_LINES, Failure, failure_of, frames_in, shorten
from recipe.treepo.settings.values import ConfigError, ConfigProblem

REMOTE = """\x1b[36mray::TaskRunnerV1.run()\x1b[39m (pid=1, ip=192.0.2.2)
  File "/v/site-packages/verl/trainer/main_ppo.py", line 160, in run
    self.trainer.fit(self.agent_loop_manager)
  File "/home/me/mine.py", line 7, in outer
    inner()
  File "/home/me/mine.py", line 3, in inner
    raise ValueError("boom")
  File "/root/.pyenv/versions/3.11.7/lib/python3.11/threading.py", line 1, in x
ValueError: boom"""


class RayTaskError(Exception):
    """Stand-in for Ray's class with the parts that ``failure_of`` uses: name, ``cause``, remote traceback as text."""

    def __init__(self, text: str, cause: BaseException | None) -> None:
        super().__init__(text)
        self.cause = cause


class Dual(RayTaskError, ValueError):
    """An error of both classes, as Ray makes them."""


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    "wrapped", [Dual(REMOTE, ValueError("boom")), RayTaskError("x", Dual(REMOTE, ValueError("boom")))]
)
def test_a_remote_error_is_unwrapped_to_its_cause_and_our_frames(wrapped):
    failure = failure_of(raised(wrapped))
    assert failure == Failure("ValueError", "boom", ("/home/me/mine.py:7 outer", "/home/me/mine.py:3 inner"))
    assert failure.lines() == [
        "  at /home/me/mine.py:7 outer",
        "  at /home/me/mine.py:3 inner",
        "error: ValueError: boom",
    ]


def test_a_cause_that_ray_could_not_send_is_read_from_its_text():
    assert failure_of(RayTaskError(REMOTE, None)).lines()[-1] == "error: ValueError: boom"
    assert failure_of(RayTaskError("", None)).kind == "RayTaskError"


def test_a_local_error_has_the_frames_of_this_file():
    failure = failure_of(raised(KeyError("x")))
    assert (failure.kind, failure.text) == ("KeyError", "'x'")
    assert failure.frames[-1].endswith(" raised") and __file__ in failure.frames[-1]


def test_rays_message_on_a_dead_process_has_no_place():
    class ActorDiedError(Exception):
        __module__ = "ray.exceptions"

    assert failure_of(raised(ActorDiedError("died"))).lines() == ["error: ActorDiedError: died"]


def test_places_that_every_run_passes_through_are_left_out():
    text = "".join(
        f'  File "/x/recipe/treepo/{name}.py", line 1, in f\n' for name in ("main_treepo", "verl_adapters/run")
    )
    own = '  File "/x/recipe/treepo/reward.py", line 2, in g\n'
    assert frames_in(own + text) == ("/x/recipe/treepo/reward.py:2 g",)


def test_an_error_for_users_is_its_text():
    problem = ConfigProblem("choice", "treepo.a", 1, "must be b", "Use b.")
    sent = pickle.loads(pickle.dumps(ConfigError([problem])))
    assert (type(sent), str(sent), sent.problems) == (ConfigError, str(ConfigError([problem])), [problem])
    assert failure_of(Dual(REMOTE, sent)).lines() == [
        "error: 1 problem(s) in the configuration:\n  1. treepo.a=1: must be b. Use b."
    ]


def test_without_frames_of_ours_those_of_others_are_shown():
    text = "".join(f'  File "/v/site-packages/vllm/a.py", line {line}, in f\n' for line in range(9))
    assert frames_in(text) == tuple(f"/v/site-packages/vllm/a.py:{line} f" for line in (6, 7, 8))
    assert frames_in("nothing") == ()


def test_long_messages_are_cut():
    assert shorten("a\nb") == "a\nb"
    assert len(shorten("a\n" * 100).splitlines()) == MESSAGE_LINES
    assert shorten("a" * 9999).endswith(" ...") and len(shorten("a" * 9999)) < 2000
    assert failure_of(ValueError()).lines() == ["error: ValueError"]


@pytest.mark.parametrize(
    ("kind", "is_death", "is_final"),
    [
        ("WatchdogError", True, True),
        ("ActorDiedError", True, False),
        ("RewardError", False, True),
        ("CheckpointError", False, True),
        ("ValueError", False, False),
    ],
)
def test_deaths_may_be_restarted_and_final_errors_have_the_cause(kind, is_death, is_final):
    failure = Failure(kind, "text")
    assert (failure.is_death, failure.is_final) == (is_death, is_final)
    assert failure.lines() == ["error: text" if is_final else f"error: {kind}: text"]
