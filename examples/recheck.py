# SPDX-License-Identifier: Apache-2.0
"""Custom conversation: request a second check of a wrong answer, and the final answer in the last turn.

    bash scripts/run_recheck_qwen0.5b.sh

or, in any run:

    python -m recipe.treepo.main_treepo ... \\
        treepo.interaction.path=examples/recheck.py treepo.interaction.name=Recheck treepo.depth=4

This is the scenario of ms-swift's TreePO table (benchmarks/ms_swift_table.py). The ground truth decides whether the
conversation continues, also in validations. These measure how often the model is right within its turns.
"""

from recipe.treepo.interaction import Interaction, Message, TurnContext
from recipe.treepo.reward import compute_score

CHECK_AGAIN = "Check again."
FINAL_ANSWER = "Give the final answer."


class Recheck(Interaction):
    """Conversation that ends with a right answer, or at the depth of the tree."""

    def __init__(self, *, check_again: str = CHECK_AGAIN, final_answer: str = FINAL_ANSWER) -> None:
        """Take the reply to a wrong answer, and that before the last turn."""
        self._check_again, self._final_answer = check_again, final_answer

    def check_finished(self, context: TurnContext) -> str | None:
        """Return "right" for a right answer. A plain function runs in a thread, so it may block.

        The reward reads the whole response: a box in an earlier turn takes precedence over a number without a box.
        """
        truth = context.sample["reward_model"]["ground_truth"]
        score = compute_score(context.sample["data_source"], context.response, truth, context.sample.get("extra_info"))
        return "right" if score["acc"] else None

    async def step(self, context: TurnContext) -> list[Message]:
        """Return the reply to a wrong answer."""
        return [{"role": "user", "content": self._final_answer if context.turns_left == 1 else self._check_again}]
