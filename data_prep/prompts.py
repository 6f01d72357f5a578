# SPDX-License-Identifier: Apache-2.0
r"""Chat messages around a problem; pure Python."""

from collections.abc import Sequence

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
TEMPLATES = {
    "boxed": "the instruction after the problem, as for Qwen-Math",
    "plain": "the problem alone",
    "system": "the instruction as system message",
}


def build_prompt(
    problem: str, template: str, system_prompt: str | None = None, examples: Sequence[tuple[str, str]] = ()
) -> list[dict[str, str]]:
    """Return the chat messages for one problem; `template` is one of TEMPLATES.

    `system_prompt` is a custom system message, None for none; template "system" ignores it. `examples` are pairs of a
    problem and its solution, which become turns before the problem.
    """
    system = INSTRUCTION if template == "system" else system_prompt
    messages = [] if system is None else [{"role": "system", "content": system}]
    for text, solution in examples:
        messages += [_question(text, template), {"role": "assistant", "content": solution}]
    return [*messages, _question(problem, template)]


def _question(problem: str, template: str) -> dict[str, str]:
    content = f"{problem}\n\n{INSTRUCTION}" if template == "boxed" else problem
    return {"role": "user", "content": content}
