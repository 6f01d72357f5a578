# SPDX-License-Identifier: Apache-2.0
"""Extract the cause of a failed run from Ray's exception, in a few lines."""

import os
import re
import traceback
from dataclasses import dataclass

# Errors whose message has the cause: other errors in the log are consequences or unrelated.
_FINAL = ("CheckpointError", "RewardError", "WatchdogError")
# Errors with a message for the user, shown without frames.
_FOR_USERS = ("ConfigError", "ConfigCompositionException", "MissingMandatoryValue", *_FINAL)
# Ends that another start may not have: the watchdog's, and dead processes.
_DEATHS = (
    *("WatchdogError", "ActorDiedError", "ActorUnavailableError", "NodeDiedError", "OutOfMemoryError"),
    *("WorkerCrashedError", "LocalRayletDiedError", "ObjectLostError", "OwnerDiedError"),
)
RESTARTABLE = os.EX_TEMPFAIL
"""Exit status (75) of a run that a process's death or the watchdog ended: a restart may help."""
LAST_WORD = "WatchdogError: "
"""Beginning of the line with the cause if the watchdog had to end the trainer's process."""
# Maximum number of frames, and of lines and characters of a message.
FRAMES, MESSAGE_LINES, MESSAGE_CHARACTERS = 3, 12, 1500
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+?)\s*$', re.MULTILINE)
_FOREIGN = re.compile(r"site-packages|dist-packages|[/\\]lib[/\\]python\d|^<frozen|python/ray/_raylet|\.pyx$")
# Code on the path of every run.
_COMMON = re.compile(r"recipe/treepo/(main_treepo|command_line/composition|verl_adapters/(console|run))\.py$")


@dataclass(frozen=True, slots=True)
class Failure:
    """The innermost error.

    Attributes:
        frames: Last frames of our own or the user's code as ``file:line function``, innermost last; frames of other
        code
            if there are none.
    """

    kind: str
    text: str
    frames: tuple[str, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether the message has the cause."""
        return self.kind in _FINAL

    @property
    def is_death(self) -> bool:
        """Whether a process died or stood still, so that a restart from the last checkpoint may help."""
        return self.kind in _DEATHS

    def lines(self) -> list[str]:
        """Return the frames and ``error: ...``."""
        message = self.text if self.kind in _FOR_USERS else f"{self.kind}: {self.text}" if self.text else self.kind
        return [f"  at {frame}" for frame in self.frames] + [f"error: {message}"]


def failure_of(error: BaseException) -> Failure:
    """Describe an error; errors of remote tasks are unwrapped to their cause."""
    cause, remote = error, None
    seen: set[int] = set()
    while id(cause) not in seen:
        seen.add(id(cause))
        inner = getattr(cause, "cause", None)
        if not isinstance(inner, BaseException) or not _is_remote(cause):
            break
        remote, cause = cause, inner
    if _is_remote(cause):  # Ray could not send the cause, only its text
        return _of_text(str(cause))
    source = str(remote) if remote is not None else "".join(traceback.format_exception(cause))
    # Ray's own error for a dead process has only the frame that waited for it.
    has_no_place = type(cause).__name__ in _FOR_USERS or type(cause).__module__.startswith("ray.")
    return Failure(type(cause).__name__, shorten(str(cause)), () if has_no_place else frames_in(source))


def frames_in(text: str) -> tuple[str, ...]:
    """Return the last frames of the innermost traceback in a text."""
    text = _COLOR.sub("", text)
    found = [(match["file"], f"{match['file']}:{match['line']} {match['function']}") for match in _FRAME.finditer(text)]
    own = [place for file, place in found if not _FOREIGN.search(file) and not _COMMON.search(file)]
    return tuple((own or [place for _, place in found])[-FRAMES:])


def shorten(text: str) -> str:
    """Cut a message that would fill the screen."""
    text = _COLOR.sub("", text).strip()
    kept = "\n".join(text.splitlines()[:MESSAGE_LINES])[:MESSAGE_CHARACTERS]
    return kept if kept == text else f"{kept} ..."


def _of_text(text: str) -> Failure:
    lines = [line for line in _COLOR.sub("", text).splitlines() if line.strip()]
    kind, _, rest = (lines[-1] if lines else "").partition(": ")
    return Failure(kind.rpartition(".")[2] or "RayTaskError", shorten(rest), frames_in(text))


def _is_remote(error: BaseException) -> bool:
    """Return whether Ray made this error from the error of a remote task, without importing Ray."""
    return any(base.__name__ == "RayTaskError" for base in type(error).__mro__)
