# SPDX-License-Identifier: Apache-2.0
"""Packed engines against verl's own on the same data: log-probabilities, losses, gradients, values."""

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torch.nn.attention.flex_attention import flex_attention
from transformers import Qwen2ForCausalLM
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPCriticConfig
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.utils.losses import value_loss

from helpers.packed_models import GPU, MODELS, SIZES, actor_loss, batch, build, difference, trained
from helpers.process_group import lone_process
from recipe.treepo.packed.attention import COST, ChainLayout, block_mask, chain_attention, token_mask
from recipe.treepo.packed.prefix_tree import CallCost, pack
from recipe.treepo.verl_adapters.critic import CriticEngine
from recipe.treepo.verl_adapters.packed_engine import PackedActorEngine, PackedCriticEngine


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, (config, model, options) in MODELS.items():
        torch.manual_seed(0)
        model(config(**SIZES, **options)).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory):
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


# --- data -----------------------------------------------------------------------------------------------------------


def responses(output: dict, data: TensorDict, name: str) -> torch.Tensor:
    """Return the values of the response tokens, which verl stores one token early."""
    found = []
    pairs = zip(output["model_output"][name].unbind(), data["responses"].unbind(), strict=True)
    for numbers, response in pairs:
        found.append(numbers[-len(response) - 1 : -1])
    return torch.cat(found)


# --- exactness ------------------------------------------------------------------------------------------------------


def compared(ours, theirs, data: TensorDict, loss=None, near: float = 1e-5) -> None:
    """Check that both engines compute the same for a batch."""
    with ours.eval_mode(), theirs.eval_mode():
        packed, plain = (engine.infer_batch(data.clone()) for engine in (ours, theirs))
    assert packed["model_output"].keys() == plain["model_output"].keys()
    for name in plain["model_output"]:
        torch.testing.assert_close(responses(packed, data, name), responses(plain, data, name), atol=near, rtol=near)
    total, grads = trained(ours, data, loss or actor_loss())
    expected, expected_grads = trained(theirs, data, loss or actor_loss())
    assert total == pytest.approx(expected, abs=near / 10)
    assert difference(grads, expected_grads) < near


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_losses_and_gradients_are_those_of_verls_engine(name, attention, models):
    ours, theirs = (
        build(engine, models / name, attention=attention) for engine in (PackedActorEngine, FSDPEngineWithLMHead)
    )
    for seed in range(4):
        compared(ours, theirs, batch(seed, calculate_sum_pi_squared=True))


@pytest.mark.skipif(not GPU, reason="FlexAttention trains on GPUs only")
@pytest.mark.parametrize("name", MODELS)
def test_they_are_with_flex_attention(name, models, monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    ours = build(PackedActorEngine, models / name, attention="flex_attention")
    theirs = build(FSDPEngineWithLMHead, models / name)
    for seed in range(12):  # more lengths than torch compiles variants of a function
        # Largest differences seen on an H200: 2.4e-5 in log-probabilities, 2e-5 in gradients.
        compared(ours, theirs, batch(seed, prompts=1 + seed % 3), near=1e-4)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
@pytest.mark.parametrize("model", [{"enable_gradient_checkpointing": True}, {"lora_rank": 4}])
def test_they_are_with_each_way_to_train(strategy, model, models, monkeypatch):
    # torch cannot send weights between ranks on a CPU, and there is only one rank.
    fsdp1 = transformer_impl.FSDP
    monkeypatch.setattr(
        transformer_impl, "FSDP", lambda *args, **kwargs: fsdp1(*args, **{**kwargs, "sync_module_states": False})
    )
    monkeypatch.setattr(transformer_impl.FSDP, "set_state_dict_type", fsdp1.set_state_dict_type, raising=False)
    torch.manual_seed(1)
    ours = build(PackedActorEngine, models / "qwen2", strategy=strategy, **model)
    torch.manual_seed(1)
    theirs = build(FSDPEngineWithLMHead, models / "qwen2", strategy=strategy, **model)
    compared(ours, theirs, batch(5))


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 4}, [4, 4, 4]),
        ({"max_token_len_per_gpu": 10_000}, [12]),
        ({"temperature": 1.0}, None),
    ],
)
def test_they_are_with_each_way_to_divide_a_batch(options, sizes, models):
    ours, theirs = (build(engine, models / "qwen2") for engine in (PackedActorEngine, FSDPEngineWithLMHead))
    compared(ours, theirs, batch(6, **options))
    rows, step = [], ours.forward_step
    ours.forward_step = lambda part, **more: (rows.append(len(part)), step(part, **more))[1]
    with ours.eval_mode():
        ours.infer_batch(batch(6, **options))
    assert sum(rows) == 12 and sizes in (None, rows)


def test_the_same_trajectory_again_and_again_is_computed_once(models):
    ours, theirs = (build(engine, models / "qwen2") for engine in (PackedActorEngine, FSDPEngineWithLMHead))
    data = tu.concat_tensordict([batch(7, prompts=1, width=1)] * 4)
    compared(ours, theirs, data)
    with ours.eval_mode():
        ours.infer_batch(data.clone())
    with ours.train_mode():
        metrics = ours.train_batch(data.clone(), actor_loss())["metrics"]
    assert metrics["packing/unique_over_total"] == metrics["packing/forward_unique_over_total"] == [0.25]


def test_a_critics_values_are_those_of_verls_engine(models):
    ours, theirs = (build(engine, models / "qwen2") for engine in (PackedCriticEngine, CriticEngine))
    theirs.module.load_state_dict(ours.module.state_dict())  # the head is initialized at random
    config = FSDPCriticConfig(strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
    compared(ours, theirs, batch(8), partial(value_loss, config))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_bfloat16_packing_is_as_near_to_float32_as_verls_engine(attention, models):
    exact = build(FSDPEngineWithLMHead, models / "qwen2")
    ours, theirs = (
        build(kind, models / "qwen2", dtype="bf16", attention=attention)
        for kind in (PackedActorEngine, FSDPEngineWithLMHead)
    )

    def log_probs(engine, data):
        with engine.eval_mode():
            return responses(engine.infer_batch(data.clone()), data, "log_probs").float()

    errors: dict[str, list[torch.Tensor]] = {"ours": [], "theirs": [], "between": [], "between their two": []}
    for seed in range(8):
        data = batch(seed)
        right, packed, padded = (log_probs(engine, data) for engine in (exact, ours, theirs))
        errors["ours"].append(packed - right)
        errors["theirs"].append(padded - right)
        errors["between"].append(packed - padded)
        errors["between their two"].append(log_probs(theirs, batch(seed, use_remove_padding=True)) - padded)
    sizes = {name: float(torch.cat(numbers).square().mean().sqrt()) for name, numbers in errors.items()}
    assert 0.01 < sizes["theirs"] and sizes["ours"] < 1.1 * sizes["theirs"]
    if attention == "eager":  # all use the same kernel; sdpa sums in another order for each shape
        assert sizes["between"] <= sizes["between their two"] + 1e-6


def test_in_bfloat16_gradients_are_as_near_to_float32_as_verls(models):
    data = batch(2, width=12)
    _, right = trained(build(FSDPEngineWithLMHead, models / "qwen2"), data, actor_loss())
    distances = []
    for kind in (PackedActorEngine, FSDPEngineWithLMHead):
        _, grads = trained(build(kind, models / "qwen2", dtype="bf16"), data, actor_loss())
        distances.append(difference(grads, right))
    assert 1e-4 < distances[1] and distances[0] < 1.1 * distances[1]


def test_rows_without_a_selected_token_pass_through(models):
    engine = build(PackedActorEngine, models / "qwen2")
    data = batch(0, prompts=1, width=2)
    empty = torch.nested.as_nested_tensor([torch.zeros(0, dtype=torch.long)] * 2, layout=torch.jagged)
    data["input_ids"], data["responses"] = data["prompts"], empty
    with engine.eval_mode():
        output = engine.infer_batch(data)["model_output"]
    assert not output["log_probs"].values().any()


def test_the_callers_batch_stays_as_it_is(models):
    engine = build(PackedActorEngine, models / "qwen2")
    data = batch(0, use_dynamic_bsz=False, micro_batch_size_per_gpu=4)
    with engine.eval_mode():
        engine.infer_batch(data)
    assert data["use_dynamic_bsz"] is False and "batch_num_tokens" not in data.keys()


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_masks_of_all_kinds_let_a_token_see_those_above_it_and_itself(seed):
    data = batch(seed, prompts=3)
    packing = pack([tokens.numpy() for tokens in data["input_ids"].unbind()])
    end_U, count = torch.from_numpy(packing.end_U), len(packing.end_U)
    sees = torch.zeros(count, count, dtype=torch.bool)
    for token in range(count):
        above = token
        while above >= 0:
            sees[token, above] = True
            above = int(packing.parent_U[above])
    lowest = torch.finfo(torch.bfloat16).min
    assert torch.equal(token_mask(end_U, torch.bfloat16)[0, 0].float(), (~sees).float() * lowest)
    blocks = block_mask(packing, end_U.device)
    place = torch.arange(count)
    assert torch.equal(blocks.mask_mod(None, None, place[:, None], place[None, :]), sees)
    # Blocks without a pair are left out; full and partial blocks are kept.
    size = blocks.BLOCK_SIZE[0]
    padded = torch.nn.functional.pad(sees, (0, -count % size, 0, -count % size))
    some = padded.view(len(padded) // size, size, -1, size).any(dim=3).any(dim=1)
    assert torch.equal(blocks.to_dense()[0, 0].bool(), some)


@pytest.mark.parametrize("seed", range(5))
def test_attention_by_blocks_and_by_chains_is_attention_with_the_mask(seed):
    data = batch(seed, prompts=3)
    packing = pack([tokens.numpy() for tokens in data["input_ids"].unbind()])
    end_U = torch.from_numpy(packing.end_U)
    torch.manual_seed(0)
    # 4 query heads; each pair shares keys and values
    query = torch.randn(1, 4, len(end_U), 16)
    key, value = (torch.randn(1, 2, len(end_U), 16) for _ in range(2))
    repeated = [states.repeat_interleave(2, dim=1) for states in (key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, *repeated, attn_mask=token_mask(end_U, torch.float32), scale=0.3
    )
    flex = flex_attention(query, *repeated, block_mask=block_mask(packing, end_U.device), scale=0.3)
    torch.testing.assert_close(flex, expected, atol=1e-5, rtol=1e-5)
    layer = SimpleNamespace(num_key_value_groups=2)
    # by chains alone, by the choice of the default, all in one call, and mixtures
    counts = []
    for cost in (CallCost(0, 0), COST, CallCost(10**9, 0), CallCost(500, 1), CallCost(50, 5)):
        layout = ChainLayout(packing, end_U.device, cost)
        counts.append(len(layout.calls))
        chains, _ = chain_attention(layer, query, key, value, None, chains=layout, scaling=0.3)
        torch.testing.assert_close(chains.transpose(1, 2), expected, atol=1e-5, rtol=1e-5)
    assert counts[2] == 1 < counts[3] < counts[0]


# --- rejected configurations and data -------------------------------------------------------------------------------


@pytest.mark.skipif(GPU, reason="for machines without a GPU")
def test_flex_attention_is_refused_where_it_cannot_train(models):
    with pytest.raises(ValueError, match="attn_implementation=flex_attention: FlexAttention trains on GPUs only"):
        build(PackedActorEngine, models / "qwen2", attention="flex_attention")


def test_code_of_a_models_own_is_refused(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers_modules.theirs", sys.modules[Qwen2ForCausalLM.__module__])
    monkeypatch.setattr(Qwen2ForCausalLM, "__module__", "transformers_modules.theirs")
    with pytest.raises(ValueError, match="requires a model class of transformers, but Qwen2ForCausalLM has its own"):
        build(PackedActorEngine, models / "qwen2")


@pytest.mark.parametrize("engine", [{"pad_to_length": True}, {"use_fused_kernels": True}])
def test_settings_that_exclude_packing_are_refused(engine, models):
    with pytest.raises(ValueError, match="not supported with ulysses_sequence_parallel_size > 1, use_fused_kernels or"):
        build(PackedActorEngine, models / "qwen2", engine=engine)


def test_data_that_cannot_be_packed_are_refused(models):
    engine = build(PackedActorEngine, models / "qwen2")
    data = batch(0)
    positions = [row[None].repeat(3, 1) for row in data["position_ids"].unbind()]
    data["position_ids"] = torch.nested.as_nested_tensor(positions, layout=torch.jagged)
    with pytest.raises(ValueError, match="supports text only. Use treepo.packed_training=false"):
        engine.prepare_model_inputs(data)
    for key in ("distillation_use_topk", "distillation_only"):
        with pytest.raises(ValueError, match="does not support distillation. Use treepo.packed_training=false"):
            engine.prepare_model_inputs(batch(0, **{key: True}))
    data = batch(0)
    images = [{"pixel_values": torch.zeros(1, 3)}] + [{}] * (len(data) - 1)
    tu.assign_non_tensor_stack(data, "multi_modal_inputs", images)
    with pytest.raises(ValueError, match="supports text only"):
        engine.prepare_model_inputs(data)
    tu.assign_non_tensor_stack(data, "multi_modal_inputs", [{}] * len(data))  # verl's form for text
    engine.prepare_model_inputs(data)
    data = batch(0, max_token_len_per_gpu=10)
    with pytest.raises(ValueError, match=r"a sequence of \d+ tokens does not fit into 10"), engine.eval_mode():
        engine.infer_batch(data)
