# SPDX-License-Identifier: Apache-2.0
"""verl's FSDP critic with the configured attention, for ``algorithm.adv_estimator=gae``.

``verl.utils.model.load_valuehead_model`` loads every critic with ``attn_implementation="flash_attention_2"`` and
ignores ``critic.model.override_config.attn_implementation``. No critic starts without flash-attn: neither on a CPU, nor
in the environment of ``requirements/gpu.txt``. With flash_attention_2, the default, this engine behaves like verl's.

``EngineRegistry.get_engine_cls`` looks up the vendor first, so this engine is registered for ``cpu`` and ``nvidia``.
"""

import torch
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithValueHead


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cuda", vendor=["cpu", "nvidia"])
class CriticEngine(FSDPEngineWithValueHead):
    """FSDP engine of a language model with one value per token."""

    def _build_module(self) -> torch.nn.Module:
        """Load the model by its architecture, as verl loads every model except critics.

        ``FSDPEngine._build_module`` reads the model type only to choose between these two loaders.
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
