# SPDX-License-Identifier: Apache-2.0
"""verl's tools in trees: :class:`ToolInteraction`, for ``treepo.interaction.path=pkg://recipe.treepo.tools``.

Parser, tool execution, limits and messages are verl's own. The results of a turn's tool calls become messages. A turn
without calls ends the conversation. Subclass it to continue after such a turn::

    from recipe.treepo.tools import ToolInteraction

    class AskAgain(ToolInteraction):
        async def step(self, context):
            return await super().step(context) or [{"role": "user", "content": "Are you sure?"}]

The state of a path is ``agent_data.extra_fields`` of verl's tools. Each branch gets a copy.
"""

from recipe.treepo.verl_adapters.tool_interaction import ToolInteraction

__all__ = ["ToolInteraction"]
