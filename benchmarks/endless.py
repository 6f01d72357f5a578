# SPDX-License-Identifier: Apache-2.0
"""A conversation that never ends by itself: every path runs to full depth, so engine calls are known beforehand."""

from recipe.treepo.interaction import Interaction, Message, TurnContext
from tiny.conversations import CHECK_AGAIN


class Endless(Interaction):
    """Asks again whatever the model wrote, also where a turn was cut off."""

    async def check_finished(self, context: TurnContext) -> None:
        return None

    async def step(self, context: TurnContext) -> list[Message]:
        return [{"role": "user", "content": CHECK_AGAIN}]
