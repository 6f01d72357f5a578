# SPDX-License-Identifier: Apache-2.0
"""Conversation that never ends early, so every path has full depth and the number of engine calls is known."""

from recipe.treepo.interaction import Interaction, Message, TurnContext
from tiny.conversations import CHECK_AGAIN


class Endless(Interaction):
    """Interaction that requests another check after every turn, even after one that was cut off."""

    async def check_finished(self, context: TurnContext) -> None:
        return None

    async def step(self, context: TurnContext) -> list[Message]:
        return [{"role": "user", "content": CHECK_AGAIN}]
