# SPDX-License-Identifier: Apache-2.0
"""Small models, batches and losses for verl's engine and the packed one."""

import random
from functools import partial

import torch
from tensordict import TensorDict
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.utils.losses import ppo_loss

VOCABULARY = 50


GPU = torch.cuda.is_available()


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64 if GPU else 32,  # FlexAttention needs 16 per head
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # so that a wrong mask or position changes every number
}


MODELS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16 if GPU else 8, "tie_word_embeddings": False}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
}


def build(engine_class, path, *, strategy="fsdp2", dtype="fp32", attention="sdpa", engine=None, **model):
    config = HFModelConfig(
        path=str(path),
        model_type="value_model" if "Critic" in engine_class.__name__ else "language_model",
        load_tokenizer=False,
        override_config={"attn_implementation": attention},
        **{"use_remove_padding": False, "enable_gradient_checkpointing": False, **model},
    )
    precision = {"param_dtype": dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = engine_class(
        model_config=config,
        engine_config=FSDPEngineConfig(
            strategy=strategy, model_dtype="fp32", use_torch_compile=False, mixed_precision=precision,
            **(engine or {}),
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=10),
        checkpoint_config=None,
    )  # fmt: skip
    engine._build_model_optimizer()
    return engine


def tree(rng: random.Random, *, depth: int, width: int) -> list[list[int]]:
    """Return responses with random branches; some are prefixes of others, some are equal."""
    grown = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4))]]
    while len(grown) < width:
        path = rng.choice(grown)
        kept = path[: rng.randint(0, len(path))]
        added = [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 4) * rng.randint(0, depth))]
        if kept + added:
            grown.append(kept + added)
    return grown


def batch(seed: int, *, prompts: int = 2, width: int = 6, depth: int = 14, **options) -> TensorDict:
    """Return an engine input of verl: trees of several prompts, in shuffled rows."""
    rng = random.Random(seed)
    rows = []
    for _ in range(prompts):
        prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 9))]
        rows += [(prompt, response) for response in tree(rng, depth=depth, width=width)]
    rng.shuffle(rows)
    generator = torch.Generator().manual_seed(seed)

    def nested(lists, dtype=torch.long):
        return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in lists], layout=torch.jagged)

    def random_numbers(low, high):
        numbers = [torch.rand(len(response), generator=generator) * (high - low) + low for _, response in rows]
        return torch.nested.as_nested_tensor(numbers, layout=torch.jagged)

    masks = [[int(rng.random() < 0.9) or int(at == 0) for at in range(len(response))] for _, response in rows]
    tensors = {
        "input_ids": nested([prompt + response for prompt, response in rows]),
        "position_ids": nested([list(range(len(prompt + response))) for prompt, response in rows]),
        "prompts": nested([prompt for prompt, _ in rows]),
        "responses": nested([response for _, response in rows]),
        "response_mask": nested(masks),
        "loss_mask": nested([[0] * len(prompt) + mask for (prompt, _), mask in zip(rows, masks, strict=True)]),
        "old_log_probs": random_numbers(-5.0, -3.0),
        "ref_log_prob": random_numbers(-5.0, -3.0),
        "advantages": random_numbers(-1.0, 1.0),
        "values": random_numbers(-1.0, 1.0),
        "returns": random_numbers(-1.0, 1.0),
    }
    numbers = {
        "temperature": 0.8,
        "global_batch_size": len(rows),
        "use_remove_padding": False,
        "use_dynamic_bsz": True,
        "max_token_len_per_gpu": 150,
        "calculate_entropy": True,
    }
    return tu.get_tensordict(tensors, non_tensor_dict={**numbers, **options})


def actor_loss(**options):
    config = FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1, use_kl_loss=True, entropy_coeff=0.1, **options
    )
    return partial(ppo_loss, config)


def gradients(engine) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad
            found[name] = (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).detach().clone()
    return found


def trained(engine, data: TensorDict, loss) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of one batch and its gradients."""
    with engine.train_mode():
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(data.clone(), loss)
        found = gradients(engine)
        engine.optimizer_zero_grad()
    return sum(output["loss"]), found


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the L2 distance of two gradients, relative to the norm of the second."""
    assert ours.keys() == theirs.keys() and theirs
    distance = sum(float((ours[name] - theirs[name]).square().sum()) for name in theirs) ** 0.5
    return distance / sum(float(grad.square().sum()) for grad in theirs.values()) ** 0.5
