# SPDX-License-Identifier: Apache-2.0
"""verl's FSDP critic with the attention that the configuration names; ``algorithm.adv_estimator=gae`` needs it.

``verl.utils.model.load_valuehead_model`` loads every critic with ``attn_implementation="flash_attention_2"``, whatever
``critic.model.override_config.attn_implementation`` says, so no critic starts where flash-attn is not installed: on a
CPU, and in the environment that ``requirements/gpu.txt`` makes. With flash_attention_2 configured, as it is by default,
nothing changes.

Registered for the vendors of our machines, before which ``EngineRegistry.get_engine_cls`` finds no other engine.
"""

import torch
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithValueHead


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cuda", vendor=["cpu", "nvidia"])
class CriticEngine(FSDPEngineWithValueHead):
    """A language model whose head is one number per token, trained by FSDP."""

    def _build_module(self) -> torch.nn.Module:
        """Load the model by its architecture, as verl loads every model that is no critic.

        ``FSDPEngine._build_module`` asks for the type of the model only to choose between the two ways.
        """
        hf_config = self.model_config.hf_config
        module: torch.nn.Module
        if hf_config._attn_implementation == "flash_attention_2":
            module = super()._build_module()
            return module
        hf_config.num_labels = 1
        hf_config.classifier_dropout = 0.0
        hf_config.architectures = [hf_config.architectures[0].partition("For")[0] + "ForTokenClassification"]
        self.model_config.model_type = "language_model"
        try:
            module = super()._build_module()
            return module
        finally:
            self.model_config.model_type = "value_model"
