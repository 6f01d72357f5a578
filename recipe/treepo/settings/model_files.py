# SPDX-License-Identifier: Apache-2.0
"""Check the folders of models: configuration, weights, tokenizer, chat template. Nothing is loaded or executed."""

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.chat_tokens import (
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    FindFile,
    read_template,
    syntax_error,
)
from recipe.treepo.settings.data_reading import text_of
from recipe.treepo.settings.schema import REPLACED_AGENTS
from recipe.treepo.settings.training_rules import has_critic
from recipe.treepo.settings.values import ConfigProblem

ACTOR, CRITIC = "actor_rollout_ref.model", "critic.model"
_CONFIG = "config.json"
# In the order in which transformers looks for weights; an index names the files of sharded weights.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_FSDP = ("fsdp", "fsdp2")
_VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "tekken.json", "*.model", "*.tiktoken", "*.vocab")
# Tokenizers of bytes or characters have no vocabulary file.
_WITHOUT_VOCABULARY = re.compile("ByT5|Canine|Perceiver|Byte")
# verl encodes messages of these model types without a chat template; so does mistral-common (tekken.json).
_WITHOUT_TEMPLATE = ("deepseek_v4", "deepseek_vl_v2")
# Keys of config.json that decide the shapes of weights, and groups of such keys.
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "text_config", "model_config")
_LFS_POINTER = b"version https://git-lfs"
_MOST_HEADER_BYTES = 100_000_000
_NAME_ONE = "Name a folder with a Hugging Face model, or a model of the hub such as Qwen/Qwen2.5-0.5B."
_URL = "is a URL, but verl reads folders, models of the hub, and hdfs:// only"
Shapes = dict[str, list[int]]
"""Shapes of weights by name."""
_AGAIN = "Download the model again, or name another folder."


@dataclass(frozen=True, slots=True)
class _Model:
    """One model of the configuration.

    Attributes:
        key: Group of its keys.
        path, config_path, tokenizer_path: As in the configuration, each with verl's default.
    """

    key: str
    path: str
    config_path: str
    tokenizer_path: str
    group: DictConfig

    @property
    def is_custom(self) -> bool:
        """Whether code of the model's authors or of the user may define its classes."""
        return bool(self.group.get("trust_remote_code") or self.group.get("external_lib"))


def models_of(config: DictConfig) -> list[_Model]:
    """Return the models of a run: the actor's, and the critic's if that differs."""
    keys = [ACTOR] + ([CRITIC] if has_critic(config) else [])
    models: list[_Model] = []
    for key in keys:
        group = OmegaConf.select(config, key)
        path = OmegaConf.select(config, f"{key}.path")
        if path is None or str(path) in [model.path for model in models]:
            continue
        config_path, tokenizer_path = group.get("hf_config_path") or path, group.get("tokenizer_path") or path
        models.append(_Model(key, str(path), str(config_path), str(tokenizer_path), group))
    return models


def model_problems(config: DictConfig) -> list[ConfigProblem]:
    """Return the problems of local models; names of the hub only need to look like one."""
    problems = []
    for key in [ACTOR] + ([CRITIC] if has_critic(config) else []):
        group = OmegaConf.select(config, key)
        if OmegaConf.is_dict(group) and "path" in group and group.path is None:
            problems.append(ConfigProblem("missing_model", f"{key}.path", None, "names no model", _NAME_ONE))
    for model in models_of(config):
        paths = {
            f"{model.key}.path": model.path,
            f"{model.key}.hf_config_path": model.config_path,
            f"{model.key}.tokenizer_path": model.tokenizer_path,
        }
        missing: dict[str, str] = {}
        for key, path in paths.items():
            if path not in missing.values() and is_missing_model(path):
                missing[key] = path
        problems += [
            ConfigProblem("missing_model", key, path, _URL if "://" in path else "there is no such folder", _NAME_ONE)
            for key, path in missing.items()
        ]
        if not missing:
            problems += _folder_problems(model, config)
        if model.key == ACTOR and (own := model.group.get("custom_chat_template")) is not None:
            problems += _own_template_problems(f"{model.key}.custom_chat_template", str(own))
    return problems


def is_missing_model(path: str) -> bool:
    """Return whether ``path`` is neither a folder, nor on HDFS, nor possibly a model of the hub (``owner/name``)."""
    if path.startswith("hdfs://") or os.path.isdir(os.path.expanduser(path)):
        return False
    is_hub_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path) is not None
    return not is_hub_name or os.path.isdir(path.split("/")[0])


def local_folder(path: str) -> Path | None:
    """Return the folder of a model: a local one, or that of a hub model in the cache; None without either."""
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        return folder
    if is_missing_model(path) or re.match(r"\w+://", path):
        return None
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(path, _CONFIG)
    except errors.HFValidationError:  # hub_models.py reports it
        return None
    return Path(found).parent if isinstance(found, str) else None


def finder(folder: Path) -> FindFile:
    """Return a function that finds the files of a model in its folder."""

    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return find


def reads_messages(config: DictConfig) -> bool:
    """Return whether agent loops of verl or this recipe read the prompts: lists of messages, for a chat template."""
    agent = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.default_agent_loop")
    return agent is None or agent in REPLACED_AGENTS


# --- folders ---------------------------------------------------------------------------------------------------


class Defect(NamedTuple):
    """Violated rule of a model's folder."""

    rule_id: str
    rule: str
    remedy: str


def _folder_problems(model: _Model, config: DictConfig) -> Iterator[ConfigProblem]:
    is_whole = model.config_path == model.path and not model.is_custom
    is_whole = is_whole and not any(key in _SIZES for key in model.group.get("override_config") or ())
    checks: dict[str, tuple[str, Callable[[Path], Iterator[Defect]]]] = {
        "hf_config_path": (model.config_path, partial(_config_defects, is_custom=model.is_custom)),
        "path": (model.path, partial(_weight_defects, needed=_needs_weights(model, config), is_whole=is_whole)),
    }
    if model.key == ACTOR:
        checks["tokenizer_path"] = (model.tokenizer_path, partial(_tokenizer_defects, model=model, config=config))
    empty = set()
    for name, (path, defects) in checks.items():
        folder = Path(os.path.expanduser(path))
        if re.match(r"\w+://", path) or not folder.is_dir() or path in empty:
            continue
        key = f"{model.key}.path" if path == model.path else f"{model.key}.{name}"
        if any(folder.iterdir()):
            yield from (ConfigProblem(rule_id, key, path, rule, remedy) for rule_id, rule, remedy in defects(folder))
        else:
            empty.add(path)
            yield ConfigProblem("model_empty", key, path, "the folder is empty", _AGAIN)


def _read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError for other contents, OSError if the file is unreadable."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json``, with the keys of its text model beside its own.

    Raises:
        ValueError: if it is no JSON object.
        OSError: if it cannot be read.
    """
    content = _read_object(folder / _CONFIG)
    text = content.get("text_config")
    return {**(text if isinstance(text, dict) else {}), **content}


def model_config(config: DictConfig) -> dict[str, Any]:
    """Return ``config.json`` of a local or cached model, its text model's keys included; empty if there is none."""
    folder = local_folder(str(OmegaConf.select(config, f"{ACTOR}.path")))
    try:
        return {} if folder is None else read_config(folder)
    except (OSError, ValueError):
        return {}


def _config_defects(folder: Path, *, is_custom: bool) -> Iterator[Defect]:
    file = folder / _CONFIG
    if not file.is_file():
        yield Defect("model_config", f"the folder has no {_CONFIG}", _AGAIN)
        return
    try:
        content = _read_object(file)
    except (OSError, ValueError) as error:
        yield Defect("model_config_damaged", f"its {_CONFIG} cannot be read ({text_of(error)})", _AGAIN)
        return
    model_type = content.get("model_type")
    if is_custom or "auto_map" in content or model_type is None:  # transformers then looks at the folder's name
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        rule = f"its {_CONFIG} has model_type {model_type}, which the installed transformers does not know"
        yield Defect("model_type", rule, "Correct it, install a later transformers, or name another model.")


# --- weights ---------------------------------------------------------------------------------------------------


def _needs_weights(model: _Model, config: DictConfig) -> bool:
    """Return whether transformers loads the weights: verl's other engines read other formats, too."""
    strategy = OmegaConf.select(
        config, "critic.strategy" if model.key == CRITIC else "actor_rollout_ref.actor.strategy"
    )
    return strategy is None or strategy in _FSDP


def _weight_defects(folder: Path, *, needed: bool, is_whole: bool) -> Iterator[Defect]:
    """Yield the defects of weights.

    Args:
        needed: Whether transformers loads them.
        is_whole: Whether the folder's configuration is theirs.
    """
    with contextlib.suppress(OSError, ValueError):
        if "transformers_weights" in _read_object(folder / _CONFIG):
            return  # names a file of its own
    name = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        if needed:
            yield Defect("model_weights", f"the folder has no weights ({' or '.join(_WEIGHTS[::2])})", _AGAIN)
        return
    files = [name]
    if name.endswith(".index.json"):
        try:
            files = sorted(set(_read_object(folder / name)["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            yield Defect("model_index", f"its {name} cannot be read ({type(error).__name__}: {text_of(error)})", _AGAIN)
            return
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            yield Defect("model_shards", f"{name} names {missing[0]}{more}, which the folder lacks", _AGAIN)
        files = [file for file in files if file not in missing]
    shapes: Shapes = {}
    damaged = False
    for file in files:
        damage, found = _read_weights(folder / file)
        shapes |= found
        if damage is not None:
            damaged = True
            yield Defect("model_weights_damaged", f"{file} {damage}", _AGAIN)
    if needed and is_whole and not damaged and (reason := _other_weights(folder, shapes)) is not None:
        remedy = f"Use weights and {_CONFIG} of one model: download it again, or name another folder."
        yield Defect("model_weights_differ", f"its weights do not fit its {_CONFIG}: {reason}", remedy)


def _other_weights(folder: Path, shapes: Shapes) -> str | None:
    """Return why weights belong to another model than the configuration, None if unknown.

    transformers would replace missing weights by random ones. Only the usual names of a decoder's weights are known.
    """
    if not any(name.startswith("model.layers.") for name in shapes):
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        config = read_config(folder)
        if "auto_map" in config:
            return None
        size, layers = [int(config["vocab_size"]), int(config["hidden_size"])], int(config["num_hidden_layers"])
        found = shapes["model.embed_tokens.weight"]
        if found != size:
            return f"model.embed_tokens.weight has {found} elements, vocab_size and hidden_size are {size}"
        there = {int(name.split(".")[2]) for name in shapes if name.startswith("model.layers.")}
        if missing := sorted(set(range(layers)) - there):
            return f"layer {missing[0]} of {layers} is missing"
    return None


def _read_weights(file: Path) -> tuple[str | None, Shapes]:
    """Compare the size of a file of weights with what its header needs.

    Returns:
        damage, None if there is none, and the shapes of the weights; empty for files without a header
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as content:
            head = content.read(len(_LFS_POINTER))
            if head == _LFS_POINTER:
                return "is a pointer of Git LFS, not the file itself (`git lfs pull` gets it)", {}
            if size == 0:
                return "is empty", {}
            if file.suffix != ".safetensors":  # torch writes a zip archive, whose directory is at its end
                is_cut = head.startswith(b"PK") and not zipfile.is_zipfile(file)
                return f"is cut off: its {size:,} bytes lack the end of the archive" if is_cut else None, {}
            length = int.from_bytes(head[:8], "little")
            if length > _MOST_HEADER_BYTES or size < 8:
                return "is not a safetensors file, or damaged", {}
            content.seek(8)
            header = json.loads(content.read(length)) if length <= size - 8 else {}
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        shapes = {name: list(entry["shape"]) for name, entry in header.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"is not a safetensors file, or damaged ({type(error).__name__}: {text_of(error)})", {}
    needed = 8 + length + max(ends, default=0)
    return f"is cut off: it has {size:,} bytes of {needed:,}" if size < needed else None, shapes


# --- tokenizer -------------------------------------------------------------------------------------------------


def _tokenizer_defects(folder: Path, *, model: _Model, config: DictConfig) -> Iterator[Defect]:
    if not model.group.get("load_tokenizer", True):
        return
    settings: dict[str, Any] = {}
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        try:
            settings = _read_object(folder / name) if (folder / name).is_file() else {}
        except (OSError, ValueError) as error:
            yield Defect("model_tokenizer_damaged", f"its {name} cannot be read ({text_of(error)})", _AGAIN)
            return
        if name == TOKENIZER and (folder / name).is_file() and not isinstance(settings.get("model"), dict):
            yield Defect("model_tokenizer_damaged", f"its {name} has no model, which holds the vocabulary", _AGAIN)
            return
    is_custom = model.is_custom or "auto_map" in settings
    has_vocabulary = any(any(folder.glob(pattern)) for pattern in (TOKENIZER, *_VOCABULARIES))
    if not (has_vocabulary or is_custom or _WITHOUT_VOCABULARY.match(str(settings.get("tokenizer_class")))):
        remedy = f"Add the tokenizer's files, or name their folder with {model.key}.tokenizer_path."
        yield Defect("model_tokenizer", f"the folder has no tokenizer ({TOKENIZER})", remedy)
        return
    if reads_messages(config):
        yield from _template_defects(folder, model, is_custom=is_custom)


def _template_defects(folder: Path, model: _Model, *, is_custom: bool) -> Iterator[Defect]:
    own = model.group.get("custom_chat_template")
    try:
        template = read_template(finder(folder)) if own is None else str(own)
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        yield Defect("chat_template_damaged", f"its chat template cannot be read ({text_of(error)})", _AGAIN)
        return
    if template is None:
        others = ("tekken.json", "chat_template.json", "processor_config.json", "additional_chat_templates")
        if is_custom or any((folder / name).exists() for name in others) or _is_without_template(model):
            return
        remedy = f"Use an instruction-tuned model, or set {model.key}.custom_chat_template to a template."
        rule = "its tokenizer has no chat template, which prompts of messages need"
        yield Defect("chat_template", rule, remedy)
    elif (error_text := syntax_error(str(template))) is not None:
        place = _template_file(folder) if own is None else f"{model.key}.custom_chat_template"
        rule = f"the chat template has a syntax error ({place}, {error_text})"
        yield Defect("chat_template_syntax", rule, f"Correct it, or set {model.key}.custom_chat_template.")


def _own_template_problems(key: str, template: str) -> Iterator[ConfigProblem]:
    """Check for a template without variables, such as the name of a file, which verl does not open."""
    if is_template(template):
        return
    is_file = template.endswith((".jinja", ".jinja2", ".j2", ".txt", ".json")) or is_local_file(template)
    rule = "names a file, but verl takes the text itself for the template" if is_file else "has no messages in it"
    remedy = f"Give the template's text, or leave it out and save it as {TEMPLATE} in the model's folder."
    yield ConfigProblem("chat_template_text", key, excerpt(template), rule, remedy)


def is_template(text: str) -> bool:
    """Return whether a text has variables or statements of jinja."""
    return "{{" in text or "{%" in text


def is_local_file(name: str) -> bool:
    """Return whether a text is the path of a file."""
    try:
        return os.path.isfile(os.path.expanduser(name))
    except ValueError:  # a null character
        return False


def excerpt(text: str, most: int = 60) -> str:
    """Return a text in one line and shortened."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[:most]}..."


def _template_file(folder: Path) -> str:
    return TEMPLATE if (folder / TEMPLATE).is_file() else TOKENIZER_CONFIG


def _is_without_template(model: _Model) -> bool:
    try:
        model_type = _read_object(Path(os.path.expanduser(model.config_path)) / _CONFIG).get("model_type")
    except (OSError, ValueError):
        return True  # unknown, or reported already
    return model_type in _WITHOUT_TEMPLATE
