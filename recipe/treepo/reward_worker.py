# SPDX-License-Identifier: Apache-2.0
"""Compare answers with math-verify in a process of its own; run by file path from `reward_pool`.

math-verify hands untrusted text to SymPy, which may compute for ever or take all memory, so it runs here, where
it can be killed. The process speaks JSON lines: "ready" first, then one reply per request, until end of file on
standard input (the parent has gone). It imports nothing of this repository and neither torch nor ray.
"""

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable

GRACE_S = 1.0  # seconds beyond the parent's limit after which the kernel ends this process


def limit_memory(extra_bytes: int) -> None:
    """Cap the address space at what is mapped now plus `extra_bytes`, so what importing needs comes on top."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + extra_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load_checker() -> Callable[[str, str], bool]:
    """Import math-verify and return a function (gold, answer) -> equal."""
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX only: the plain-expression extraction would send text through SymPy's parse_expr, which uses eval.
    # The time-outs are off because they need SIGALRM, which here is the backstop against an orphan.
    targets = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> list:
        return parse("\\boxed{" + text + "}", targets, parsing_timeout=None)

    def check(gold: str, answer: str) -> bool:
        parsed_gold, parsed_answer = read(gold), read(answer)
        return bool(parsed_gold and parsed_answer) and bool(verify(parsed_gold, parsed_answer, timeout_seconds=None))

    return check


def answer_request(line: bytes, check: Callable[[str, str], bool]) -> dict:
    """Return the reply to one request line: {"equal": bool} or {"error": text}."""
    request = json.loads(line)
    # The default action of SIGALRM ends the process inside the kernel, also when a long C call holds the
    # interpreter: a worker whose parent was killed while it computed does not run on.
    signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + GRACE_S)
    try:
        return {"equal": check(request["gold"], request["answer"])}
    except Exception as error:  # whatever a hostile answer provokes; the parent replaces this process
        return {"error": type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def serve(memory_bytes: int) -> int:
    """Answer requests until standard input ends; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not be taken for a reply

    def reply(message: dict) -> None:
        replies.write(json.dumps(message).encode("ascii") + b"\n")

    try:
        check = load_checker()
        limit_memory(memory_bytes)
    except Exception as error:
        reply({"failed": f"{type(error).__name__}: {error}"})
        return 1
    reply({"ready": True})
    for line in sys.stdin.buffer:
        message = answer_request(line, check)
        reply(message)
        if "error" in message:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])))
