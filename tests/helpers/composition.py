# SPDX-License-Identifier: Apache-2.0
"""The recipe's configuration, composed by Hydra as on the command line, but each combination of groups only once."""

import copy
import io
from functools import cache
from unittest.mock import patch

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

load = OmegaConf.load


def composed(*overrides: str) -> DictConfig:
    """Compose the configuration with these overrides. As in Hydra, groups come first, then values in their order."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    config = copy.deepcopy(_of_groups(*(own.input_line for own in parsed if "." not in own.key_or_group)))
    ConfigLoaderImpl._apply_overrides_to_config([own for own in parsed if "." in own.key_or_group], config)
    return config


@cache
def _of_groups(*overrides: str) -> DictConfig:
    with (
        initialize_config_module("recipe.treepo.config", version_base=None),
        patch.object(OmegaConf, "load", lambda file: copy.deepcopy(_parsed(file.read()))),
    ):
        return compose("treepo_trainer", list(overrides))


@cache
def _parsed(text: str) -> DictConfig:
    return load(io.StringIO(text))
