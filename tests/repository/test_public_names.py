# SPDX-License-Identifier: Apache-2.0
"""Public names in configurations and user code, resolved by verl's and Hydra's loaders."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.utils.import_utils import load_class_from_fqn, load_module

from helpers.paths import ROOT
from recipe.treepo.interaction import Interaction
from recipe.treepo.tools import ToolInteraction


def test_verl_finds_the_rollout_manager_and_its_agent_loop():
    manager = load_class_from_fqn("recipe.treepo.rollout.TreeAgentLoopManager", "AgentLoopManager")
    assert issubclass(manager, AgentLoopManagerTQ) and manager is not AgentLoopManagerTQ
    # Workers look up their agent by this name.
    loop = load_class_from_fqn(_agent_loop_registry["treepo_agent"]["_target_"], "agent loop")
    assert issubclass(loop, ToolAgentLoop)


@pytest.mark.parametrize(
    "path",
    ["pkg://recipe.treepo.reward", f"{ROOT}/recipe/treepo/reward.py", f"file://{ROOT}/recipe/treepo/reward.py"],
)
def test_verl_finds_the_reward_function(path):
    own = {"path": path, "name": "compute_score", "reward_kwargs": {"wrong_score": -1.0}}
    score = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": own}}))
    arguments = {"data_source": "a", "ground_truth": "5"}
    assert score(solution_str=r"\boxed{5}", **arguments)["score"] == 1.0
    assert score(solution_str=r"\boxed{6}", **arguments)["score"] == -1.0


@pytest.mark.parametrize(("module", "base"), [("interaction", Interaction), ("tools", ToolInteraction)])
def test_a_file_of_a_user_subclasses_the_interactions(module, base, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        f"from recipe.treepo.{module} import {base.__name__}\n\n\nclass Mine({base.__name__}):\n    pass\n"
    )
    mine = load_module(str(tmp_path / "mine.py")).Mine
    assert issubclass(mine, base) and issubclass(mine, Interaction)
    assert getattr(load_module(f"pkg://recipe.treepo.{module}"), base.__name__) is base


def test_hydra_finds_our_groups_from_verls_entry_point():
    with initialize_config_module("verl.trainer.config", version_base=None):
        overrides = ["hydra.searchpath=[pkg://recipe.treepo.config]", "+platform=cpu", "+tree=paper_best"]
        config = compose("ppo_trainer", overrides)
    assert config.trainer.device == "cpu"
    assert config.treepo.depth == OmegaConf.load(ROOT / "recipe/treepo/config/tree/paper_best.yaml").treepo.depth
    # vLLM's worker loads the class by this name.
    extension = config.actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls
    assert extension == "recipe.treepo.verl_adapters.cpu.weight_sync.CpuWorkerExtension"
