# SPDX-License-Identifier: Apache-2.0
"""verl's reward manager `dapo`, that is its soft overlong penalty, for reward functions that see the tree path.

`reward.reward_manager.name=treepo`. Two things differ from verl's: what the agent loop says about a trajectory is part
of `extra_info`, as verl's `naive` has it and `dapo` does not; and each call has an `extra_info` of its own, where
`naive` writes into that of the row, which siblings may share. Imported by `plugin.py` when verl's managers are.
"""

from typing import Any

import numpy as np
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import DAPORewardManager, register

NAME = "treepo"


@register(NAME)
class TreeRewardManager(DAPORewardManager):
    """Score a trajectory with its tree path, then take off the overlong penalty where it is enabled."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Return {"reward_score": float, "reward_extra_info": dict} of the last row of `data`."""
        fields = data.non_tensor_batch
        extra_info = {**_last(fields, "extra_info"), **_last(fields, "tool_extra_fields")}
        extra_info["num_turns"] = fields["__num_turns__"][-1] if "__num_turns__" in fields else None
        extra_info["rollout_reward_scores"] = _last(fields, "reward_scores")
        row = data[-1:]
        row.non_tensor_batch["extra_info"] = np.array([extra_info], dtype=object)
        result = await super().run_single(row)
        # The length, and with it the penalty, is a tensor in verl's.
        info = {key: _plain(value) for key, value in result["reward_extra_info"].items()}
        return {"reward_score": _plain(result["reward_score"]), "reward_extra_info": info}


def _last(fields: dict[str, np.ndarray], key: str) -> dict[str, Any]:
    return dict(fields[key][-1] or {}) if key in fields else {}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
