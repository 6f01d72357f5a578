# SPDX-License-Identifier: Apache-2.0
"""The recipe's configuration, composed by Hydra as on the command line."""

import copy
import io
from functools import cache
from unittest.mock import patch

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

load = OmegaConf.load


def composed(*overrides: str) -> DictConfig:
    """Compose the configuration with these overrides. Each YAML text is parsed only once, because that is slow."""
    with (
        initialize_config_module("recipe.treepo.config", version_base=None),
        patch.object(OmegaConf, "load", lambda file: copy.deepcopy(_parsed(file.read()))),
    ):
        return compose("treepo_trainer", list(overrides))


@cache
def _parsed(text: str) -> DictConfig:
    return load(io.StringIO(text))
