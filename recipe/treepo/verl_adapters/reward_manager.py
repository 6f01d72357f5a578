# SPDX-License-Identifier: Apache-2.0
"""verl's reward manager `dapo` (soft overlong penalty) for reward functions that read the tree path.

`reward.reward_manager.name=treepo` selects it. It differs from verl's managers in two ways:

1. `extra_info` contains the agent loop's fields of the trajectory, as in verl's `naive` but not in `dapo`.
2. Each call gets its own `extra_info`. `naive` writes into the `extra_info` of the row, which siblings may share.

`plugin.py` imports this module when verl's managers are imported.
"""

from typing import Any

import numpy as np
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import DAPORewardManager, register

NAME = "treepo"


@register(NAME)
class TreeRewardManager(DAPORewardManager):
    """Reward manager that scores a trajectory with its tree path and subtracts the overlong penalty if enabled."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Return {"reward_score": float, "reward_extra_info": dict} for the last row of `data`."""
        fields = data.non_tensor_batch
        extra_info = {**_last(fields, "extra_info"), **_last(fields, "tool_extra_fields")}
        extra_info["num_turns"] = fields["__num_turns__"][-1] if "__num_turns__" in fields else None
        extra_info["rollout_reward_scores"] = _last(fields, "reward_scores")
        row = data[-1:]
        row.non_tensor_batch["extra_info"] = np.array([extra_info], dtype=object)
        result = await super().run_single(row)
        # verl computes the length, and thus the penalty, as a tensor.
        info = {key: _plain(value) for key, value in result["reward_extra_info"].items()}
        return {"reward_score": _plain(result["reward_score"]), "reward_extra_info": info}


def _last(fields: dict[str, np.ndarray], key: str) -> dict[str, Any]:
    return dict(fields[key][-1] or {}) if key in fields else {}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
