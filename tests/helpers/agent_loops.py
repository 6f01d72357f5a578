# SPDX-License-Identifier: Apache-2.0
"""Agent loops with a scripted client, tokenizer or prompt builder."""

from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap

from recipe.treepo.policies import Policies
from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.verl_adapters.agent_loop import TreeRequest


class OneTokenClient:
    """Client that returns token 3 for every request, and records the requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> SimpleNamespace:
        self.requests.append(request)
        return SimpleNamespace(token_ids=[3], log_probs=[-0.5], stop_reason="completed", extra_fields={})


class EndingClient(OneTokenClient):
    """Client that returns 3 and the end token 5, with an increasing weight version."""

    async def generate(self, **request: Any) -> SimpleNamespace:
        self.requests.append(request)
        version = {"min_global_steps": len(self.requests), "max_global_steps": len(self.requests)}
        return SimpleNamespace(token_ids=[3, 5], log_probs=[-0.5, -0.25], stop_reason="completed", extra_fields=version)


class ScriptedTokenizer:
    """Tokenizer with lists of tokens for texts; its chat template ends messages with the special token 5."""

    all_special_ids = (5,)

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return f"{ids}" if skip_special_tokens else f"{ids} with special tokens"

    def apply_chat_template(self, chat: list[dict[str, str]], tokenize: bool) -> str:
        return chat[-1]["content"] + "<end>"

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return {"<end>": [5]}[text]


class ScriptedBuilder:
    """Prompt builder that returns [1, 2] for the prompt and [30, 31] for every added message.

    Attributes:
        shown: Tools of each prompt.
        merged: Added messages and tools of each addition.
    """

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.merged: list[tuple[list[dict], Any]] = []

    def build_initial_tokens(self, messages: list[dict], *, tools: Any = None, **_: Any) -> list[int]:
        self.shown.append(tools)
        return [1, 2]

    def merge_context_tokens(
        self, messages: list[dict], updated: list[dict], token_ids: list[int], tools: Any
    ) -> SimpleNamespace:
        self.merged.append((updated[len(messages) :], tools))
        return SimpleNamespace(token_ids=[*token_ids, 30, 31])


def loop_arguments(
    client: Any,
    tokenizer: Any,
    *,
    tools: tuple[Any, ...] | list[Any] = (),
    name: str = "vllm",
    model_type: str | None = "qwen2",
    full_determinism: bool = False,
    prompt_length: int = 9_000,
    response_length: int = 70,
    truncation: str | None = None,
    **multi_turn: Any,
) -> dict[str, Any]:
    """Return the arguments of an agent loop, as from verl's worker."""
    rollout = {
        "name": name,
        "prompt_length": prompt_length,
        "response_length": response_length,
        "full_determinism": full_determinism,
        "multi_turn": {
            "max_user_turns": None,
            "max_assistant_turns": None,
            "max_parallel_calls": 1,
            "max_tool_response_length": 256,
            "tool_response_truncate_side": "middle",
            "format": "hermes",
            **multi_turn,
        },
    }
    data = {} if truncation is None else {"truncation": truncation}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": data})
    return {
        "trainer_config": DictConfigWrap(config),
        "server_manager": client,
        "tokenizer": tokenizer,
        "processor": None,
        "dataset_cls": None,
        "data_config": DictConfigWrap(config.data),
        "hf_model_type": model_type,
        "tools": ToolListWrap(list(tools)),
    }


def tree_request(**changes: Any) -> TreeRequest:
    """Return the request for one prompt; by default, for a tree of three trajectories."""
    standard = {
        "width": 3,
        "settings": TreePOSettings(),
        "progress": 0.0,
        "seed": 1,
        "eos_token_ids": frozenset(),
        "independent": False,
        "interaction": None,
        "policies": Policies(),
        "step": 1,
        "on_fault": lambda error: None,
        "replaced_agent": "single_turn_agent",
        "number": 0,
        "validate": False,
        "sampled": None,
        "on_tree": lambda tree: None,
        "client": OneTokenClient(),
    }
    return TreeRequest(**{**standard, **changes})
