# SPDX-License-Identifier: Apache-2.0
"""A custom conversation: ask to check a wrong answer again, and in the last turn for the final answer.

    bash scripts/run_recheck_qwen0.5b.sh

or, in any run:

    python -m recipe.treepo.main_treepo ... \\
        treepo.interaction.path=examples/recheck.py treepo.interaction.name=Recheck treepo.depth=4

The scenario of ms-swift's TreePO table (benchmarks/ms_swift_table.py). The ground truth decides whether the model is
asked again, also in validations: they measure how often the model is right within its turns.
"""

from recipe.treepo.interaction import Interaction, Message, TurnContext
from recipe.treepo.reward import compute_score

CHECK_AGAIN = "Check again."
FINAL_ANSWER = "Give the final answer."


class Recheck(Interaction):
    """End with a right answer, or with the last turn of the tree's depth."""

    def __init__(self, *, check_again: str = CHECK_AGAIN, final_answer: str = FINAL_ANSWER) -> None:
        """Make the interaction of one prompt.

        Args:
            check_again: reply to a wrong answer.
            final_answer: reply to a wrong answer before the last turn.
        """
        self._check_again, self._final_answer = check_again, final_answer

    def check_finished(self, context: TurnContext) -> str | None:
        """Return "right" for a right answer. A plain function: it runs in a thread, and may take its time.

        The reward reads the whole response, in which the box of an earlier turn counts more than a number without one.
        """
        truth = context.sample["reward_model"]["ground_truth"]
        score = compute_score(context.sample["data_source"], context.response, truth, context.sample.get("extra_info"))
        return "right" if score["acc"] else None

    async def step(self, context: TurnContext) -> list[Message]:
        """Ask again."""
        return [{"role": "user", "content": self._final_answer if context.turns_left == 1 else self._check_again}]
