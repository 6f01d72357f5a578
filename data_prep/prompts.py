# SPDX-License-Identifier: Apache-2.0
r"""Chat messages around a problem; pure Python."""

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
TEMPLATES = {
    "boxed": "the instruction after the problem, as for Qwen-Math",
    "plain": "the problem alone",
    "system": "the instruction as system message",
}


def build_prompt(problem: str, template: str, system_prompt: str | None = None) -> list[dict[str, str]]:
    """Return the chat messages for one problem; `template` is one of TEMPLATES.

    `system_prompt` is a custom system message, None for none; template "system" ignores it.
    """
    system = INSTRUCTION if template == "system" else system_prompt
    content = f"{problem}\n\n{INSTRUCTION}" if template == "boxed" else problem
    messages = [{"role": "user", "content": content}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]
