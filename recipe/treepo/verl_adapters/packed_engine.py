# SPDX-License-Identifier: Apache-2.0
"""verl's FSDP engines on packed prefix trees: each shared token passes through the model once.

A micro-batch is folded into prefix trees (``packed/prefix_tree.py``), which are packed into one row. Position ids are
depths, and each token attends to its ancestors and itself. The model computes one logit row per distinct (token, next
token) pair. Log-probabilities, entropies and values are gathered for each trajectory. From there on verl computes the
loss, the metrics and the update; gradients of shared tokens accumulate by themselves.

``treepo.packed_training`` selects these engines for actor, reference and critic: ``run.py`` sets verl's environment
variable ``VERL_ENGINE_VENDOR``, which ``EngineRegistry.get_engine_cls`` reads.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.model import extract_multi_modal_inputs
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import postprocess_batch_func

from recipe.treepo.packed.attention import CHAIN_ATTENTION, ChainLayout, block_mask, token_mask
from recipe.treepo.packed.prefix_tree import (
    PrefixOrder,
    divide,
    pack,
    prefix_order,
    question_rows,
    split,
    unique_tokens,
)
from recipe.treepo.packed.support import check_model
from recipe.treepo.settings.schema import PACKED_VENDOR
from recipe.treepo.verl_adapters.critic import CriticEngine


@dataclass(frozen=True)
class Rows:
    """Output rows of the model, and the tokens that use them.

    Attributes:
        label_R: (rows,) token whose log-probability each row computes; None for values.
        row_T: (tokens of all sequences,) row used by each token; the number of rows if it uses none.
    """

    label_R: torch.Tensor | None
    row_T: torch.Tensor


class PackedEngine(FSDPEngineWithLMHead):
    """Packed version of an engine of verl; precedes that engine among the base classes."""

    scores_tokens = True
    """Whether the head scores next tokens; a critic's values belong to the tokens themselves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Share of unique tokens in the last forward-only pass, whose own metrics verl drops.
        self._forward_share: float | None = None
        check_model(self.model_config.hf_config)
        if self.use_ulysses_sp or self.engine_config.use_fused_kernels or self.pad_to_length:
            raise ValueError(
                "treepo.packed_training=true: not supported with ulysses_sequence_parallel_size > 1, use_fused_kernels "
                "or pad_to_length. Disable them, or use treepo.packed_training=false."
            )
        if self.model_config.hf_config._attn_implementation == "flex_attention":
            if get_device_name() == "cpu":
                raise ValueError(
                    "override_config.attn_implementation=flex_attention: FlexAttention trains on GPUs only. Use sdpa."
                )
            # torch compiles at most 8 variants by default. One model needs 6: with and without gradients, for one
            # length, for any length, and for one block. A critic needs as many. Beyond the limit torch only warns and
            # computes every pair of tokens.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)

    def _build_module(self) -> Any:
        module: Any = super()._build_module()
        if not type(module).__module__.startswith("transformers.models."):
            raise ValueError(
                f"treepo.packed_training=true: requires a model class of transformers, but {type(module).__name__} has "
                "its own code, which may ignore the packed attention. Use treepo.packed_training=false."
            )
        if module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(CHAIN_ATTENTION)
        return module

    # --- micro-batches ---------------------------------------------------------------------------------------------

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> dict[str, Any]:
        """Replace ``FSDPEngine.forward_backward_batch`` by one whose micro-batches keep trees together.

        verl divides a batch inside that method by total tokens and attention cost, which splits trees.
        """
        ordered = prefix_order(_sequences(data["input_ids"]))
        runs = self._runs(data, ordered)
        group = self.get_data_parallel_group()
        return_model_output = tu.get_non_tensor_data(data=data, key="return_model_output", default=False)
        batch_num_tokens = data["loss_mask"].sum().to(get_device_id())
        dist.all_reduce(batch_num_tokens, op=dist.ReduceOp.SUM, group=group)
        data = data.copy()  # added keys must not reach the caller
        tu.assign_non_tensor(
            data,
            sp_size=1,
            batch_num_tokens=batch_num_tokens.item(),
            dp_size=self.get_data_parallel_size(),
            use_dynamic_bsz=True,  # restores the order of rows
        )
        indices = [ordered.order_S[begin:end].tolist() for begin, end in runs]
        outputs = []
        for number, index in enumerate(indices):
            last = number == len(indices) - 1
            with (
                torch.set_grad_enabled(not forward_only),
                nullcontext() if forward_only else self._gradient_sync_context(is_last_micro_batch=last),
                torch.profiler.record_function(f"micro_batch{number}"),
            ):
                micro_batch = tu.index_select_tensor_dict(data, index)
                loss, output = self.forward_step(micro_batch, loss_function=loss_function, forward_only=forward_only)
                if not forward_only:
                    (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                    if not return_model_output:
                        output.pop("model_output", None)
            outputs.append(output)
        result: dict[str, Any] = postprocess_batch_func(output_lst=outputs, indices=indices, data=data)
        share = sum(unique_tokens(ordered, *run) for run in runs) / int(ordered.length_S.sum())
        if forward_only:
            self._forward_share = share
        else:
            result["metrics"]["packing/unique_over_total"] = [share]
            if self._forward_share is not None:
                result["metrics"]["packing/forward_unique_over_total"] = [self._forward_share]
                self._forward_share = None
        return result

    def _runs(self, data: TensorDict, ordered: PrefixOrder) -> list[tuple[int, int]]:
        """Return the micro-batches as (begin, end) in the order of ``ordered``, the same number on each rank."""
        if not tu.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True):
            size, count = data["micro_batch_size_per_gpu"], len(ordered.order_S)
            return [(begin, min(begin + size, count)) for begin in range(0, count, size)]
        runs = split(ordered, data["max_token_len_per_gpu"])
        most = torch.tensor(len(runs), device=get_device_id())
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=self.get_data_parallel_group())
        return divide(ordered, runs, int(most))

    # --- one micro-batch -------------------------------------------------------------------------------------------

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the model arguments of the packed row, and the arguments of :meth:`prepare_model_outputs`."""
        media = extract_multi_modal_inputs(micro_batch.get("multi_modal_inputs", []))
        if micro_batch["position_ids"].dim() == 3 or media:
            raise ValueError("treepo.packed_training=true: supports text only. Use treepo.packed_training=false.")
        if any(tu.get_non_tensor_data(micro_batch, f"distillation_{key}", False) for key in ("use_topk", "only")):
            raise ValueError(
                "treepo.packed_training=true: does not support distillation. Use treepo.packed_training=false."
            )
        input_ids = micro_batch["input_ids"]
        packing = pack(_sequences(input_ids))

        def to_device(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(input_ids.device)

        model_inputs: dict[str, Any] = {
            "input_ids": to_device(packing.token_U)[None],
            "position_ids": to_device(packing.depth_U)[None],
        }
        match self.model_config.hf_config._attn_implementation:
            case "flex_attention":
                # Explicit, because torch's default kernel for rows below 128 tokens does not compile with these blocks.
                kernel = {"BACKEND": "TRITON"}
                model_inputs |= {"attention_mask": block_mask(packing, input_ids.device), "kernel_options": kernel}
            case "eager":
                model_inputs["attention_mask"] = token_mask(to_device(packing.end_U), self._autocast_dtype)
            case _:
                model_inputs |= {"attention_mask": None, "chains": ChainLayout(packing, input_ids.device)}
        if not self.scores_tokens:
            return model_inputs, {"rows": Rows(None, to_device(packing.unique_T))}
        # Rows for all response tokens, or for all tokens if the batch has no prompts.
        before_R, label_R, row_T = question_rows(packing, self._scored(micro_batch))
        model_inputs["logits_to_keep"] = to_device(before_R)
        return model_inputs, {"rows": Rows(to_device(label_R), to_device(row_T))}

    @staticmethod
    def _scored(micro_batch: TensorDict) -> np.ndarray:
        """Return the tokens, numbered over all sequences, whose log-probabilities are used."""
        offsets = micro_batch["input_ids"].offsets().tolist()
        begins = np.ones(len(offsets) - 1, dtype=np.int64)
        if "prompts" in micro_batch and micro_batch["prompts"].is_nested:
            begins = np.maximum(begins, micro_batch["prompts"].offsets().diff().cpu().numpy())
        return np.concatenate(
            [np.arange(offset + begin, end) for offset, begin, end in zip(offsets, begins, offsets[1:], strict=False)]
        )

    def prepare_model_outputs(
        self,
        output: Any,
        output_args: dict[str, Any],
        micro_batch: TensorDict,
        logits_processor_func: Callable[..., Any] | None,
    ) -> dict[str, torch.Tensor]:
        """Return verl's outputs of the rows, gathered for each sequence; 0 for tokens without a row."""
        rows: Rows = output_args["rows"]
        count = len(rows.label_R) if rows.label_R is not None else output.logits.shape[1]
        device = rows.row_T.device
        temperature = micro_batch["temperature"]
        if isinstance(temperature, torch.Tensor):
            assert (temperature == temperature[0]).all(), "packed trajectories need one temperature"
            temperature = temperature[0].item()
        flags = ("calculate_entropy", "calculate_sum_pi_squared")
        # verl sees the rows as one sequence without padding.
        in_a_row = tu.get_tensordict(
            {
                "input_ids": torch.nested.nested_tensor_from_jagged(
                    torch.zeros(count, dtype=torch.long, device=device), torch.tensor([0, count], device=device)
                )
            },
            non_tensor_dict={
                "use_remove_padding": True,
                **{flag: tu.get_non_tensor_data(data=micro_batch, key=flag, default=False) for flag in flags},
            },
        )
        arguments = {
            "input_ids_rmpad_rolled": rows.label_R,
            "temperature_rmpad": torch.full((count,), float(temperature), device=device),
            "temperature_is_one": float(temperature) == 1.0,
            "pad_size": 0,
        }
        answers = super().prepare_model_outputs(output, arguments, in_a_row, logits_processor_func)
        offsets = micro_batch["input_ids"].offsets()
        return {name: _gathered(values.values(), rows.row_T, offsets) for name, values in answers.items()}


def _sequences(input_ids: Any) -> list[np.ndarray]:
    """Return the tokens of each row of a nested tensor; torch's types lack its methods."""
    offsets = input_ids.offsets().cpu().numpy()
    return np.split(input_ids.values().cpu().numpy(), offsets[1:-1])


def _gathered(values_R: torch.Tensor, row_T: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    # float32, so that the gradients of a row shared by many sequences add up in float32.
    with_none = torch.cat([values_R.float(), values_R.new_zeros(1, dtype=torch.float32)])
    return torch.nested.nested_tensor_from_jagged(with_none[row_T], offsets)


_REGISTER = {"backend": ["fsdp", "fsdp2"], "device": "cuda", "vendor": PACKED_VENDOR}


@EngineRegistry.register(model_type="language_model", **_REGISTER)
class PackedActorEngine(PackedEngine):
    """Packed engine of a language model: actor and reference."""


@EngineRegistry.register(model_type="value_model", **_REGISTER)
class PackedCriticEngine(PackedEngine, CriticEngine):
    """Packed engine of a critic."""

    scores_tokens = False
