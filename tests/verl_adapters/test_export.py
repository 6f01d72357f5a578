# SPDX-License-Identifier: Apache-2.0
"""Export of checkpoints with verl's own merger, from checkpoints written here by hand."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from helpers.paths import ROOT
from recipe.treepo.verl_adapters.export import ExportError, export

SCALE, RANK = 3, 4  # lora_alpha / r


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 512}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "architectures": ["Qwen2ForCausalLM"]}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=False)).to(request.param)


def save(run, step, state, config, files):
    """Write a checkpoint of one FSDP rank as verl does."""
    actor = run / f"checkpoints/global_step_{step}/actor"
    (actor / "huggingface").mkdir(parents=True)
    config.save_pretrained(actor / "huggingface")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "tiny/model" / name, actor / "huggingface")
    torch.save(state, actor / "model_world_size_1_rank_0.pt")
    for name, content in {"fsdp_config.json": {"FSDP_version": 2, "world_size": 1}, **files}.items():
        (actor / name).write_text(json.dumps(content))
    (run / "checkpoints/latest_checkpointed_iteration.txt").write_text(str(step))


def test_the_last_checkpoint_is_exported_once_with_its_adapter_in_the_weights(model, tmp_path):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    peft = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=SCALE * RANK, target_modules=["q_proj"]))
    layer = peft.base_model.model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A.default.weight.data.normal_(), layer.lora_B.default.weight.data.normal_()
    meta = {"r": RANK, "lora_alpha": SCALE * RANK, "task_type": "CAUSAL_LM"}
    save(tmp_path, 1, peft.state_dict(), model.config, {"lora_train_meta.json": meta})
    folder = export(tmp_path)
    assert folder == tmp_path / "model_step_1" and not folder.with_name("model_step_1.part").exists()
    exported = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    after = exported.state_dict()
    assert exported.dtype == model.dtype
    changed = "model.layers.0.self_attn.q_proj.weight"
    expected = before[changed].float() + SCALE * (b.float() @ a.float())
    rounding = {torch.float32: 1e-6, torch.bfloat16: 0.02}[model.dtype]
    assert (after[changed].float() - expected).abs().max() < rounding * expected.abs().max()
    assert (before[changed].float() - expected).abs().max() > 0.2 * expected.abs().max()
    assert all(torch.equal(after[name], before[name]) for name in before if name != changed)
    (folder / "model.safetensors").unlink()
    assert export(tmp_path, 1) == folder and not (folder / "model.safetensors").exists()  # not made again


def test_what_cannot_be_exported_is_named(model, tmp_path):
    with pytest.raises(ExportError, match=r"no complete checkpoint \(latest_checkpointed_iteration.txt is missing"):
        export(tmp_path)
    save(tmp_path, 2, {}, model.config, {})
    with pytest.raises(ExportError, match=r"no checkpoint of step 3; there: steps 2\."):
        export(tmp_path, 3)
    (tmp_path / "checkpoints/global_step_2/actor/fsdp_config.json").unlink()
    with pytest.raises(ExportError, match="not a checkpoint of FSDP or Megatron"):
        export(tmp_path)


def test_a_model_saved_with_the_checkpoint_needs_no_export(model, tmp_path):
    save(tmp_path, 2, {}, model.config, {})
    ready = tmp_path / "checkpoints/global_step_2/actor/huggingface"
    model.save_pretrained(ready)
    assert export(tmp_path) == ready and not (tmp_path / "model_step_2").exists()
