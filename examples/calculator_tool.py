# SPDX-License-Identifier: Apache-2.0
"""Calculator for verl's tool agent: tool-integrated reasoning with exact arithmetic, with or without trees.

    python -m recipe.treepo.main_treepo ... \\
        actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent \\
        actor_rollout_ref.rollout.multi_turn.function_tool_path=examples/calculator_tool.py \\
        actor_rollout_ref.rollout.multi_turn.format=hermes

Model text is never executed: `arithmetic.py` parses it and computes listed operations, in a separate process with time
and memory limits (`recipe/treepo/sandbox/pool.py`). Copy both files and change them for another tool.
"""

import asyncio
from pathlib import Path

from verl.tools.function_tool import function_tool

from recipe.treepo.sandbox.pool import Failure, LimitedPool, shared_pool

TASK_FILE = Path(__file__).resolve().with_name("arithmetic.py")
# A second line of defense behind arithmetic.py's bounds. Only many numbers of tens of thousands of digits reach these
# limits; ordinary expressions take milliseconds.
TIMEOUT_S = 2.0  # wall clock of one calculation; also bounds CPU time, since there is one thread
MEMORY_MB = 256  # address space of one calculation
WORKERS = 2  # processes per calling process, some 10 MB each; the second starts while the first is busy
MAX_CHARS = 500  # of an expression; longer ones are refused


@function_tool
async def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression.

    Args:
        expression: For example 3 * (4 + 5)
    """
    # The docstring is part of every prompt; the tiny chat model learned exactly these words. Error messages list the
    # other operations (arithmetic.py). A thread waits for the process, so the event loop continues.
    return await asyncio.to_thread(_calculate, expression)


def _calculate(expression: str) -> str:
    """Return the value as text, or one line that starts with "error: ".

    Raises RuntimeError if no process can be started, whatever the expression.
    """
    if not isinstance(expression, str):
        return "error: the expression must be a text"
    if len(expression) > MAX_CHARS:
        return f"error: the expression has more than {MAX_CHARS} characters"
    pool = shared_pool(TASK_FILE, lambda: LimitedPool(TASK_FILE, workers=WORKERS, memory_mb=MEMORY_MB))
    result = pool.ask({"expression": expression}, timeout_s=TIMEOUT_S)
    match result:
        case Failure.TIMEOUT:
            return f"error: this takes longer than {TIMEOUT_S:g} seconds"
        case Failure():
            return "error: this takes too much memory"
    return result
