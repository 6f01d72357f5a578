# SPDX-License-Identifier: Apache-2.0
"""A conversation that never ends by itself: every path has full depth, so the number of engine calls is known."""

from recipe.treepo.interaction import Interaction, Message, TurnContext
from tiny.conversations import CHECK_AGAIN


class Endless(Interaction):
    """Asks for another check after every turn, even one that was cut off."""

    async def check_finished(self, context: TurnContext) -> None:
        return None

    async def step(self, context: TurnContext) -> list[Message]:
        return [{"role": "user", "content": CHECK_AGAIN}]
