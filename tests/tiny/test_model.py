# SPDX-License-Identifier: Apache-2.0
"""The embedded model ``tiny/model`` and its recipe."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data_prep.prompts import build_prompt
from helpers.paths import ROOT
from tiny import chat_recipe, ledger_recipe, make_model, measure, plain_recipe, supervision
from tiny import problems as tiny_problems

pytest.importorskip("torch")
pytest.importorskip("transformers")


MODEL = ROOT / "tiny/model"
RECIPES = {"model": plain_recipe.RECIPE, "chat_model": chat_recipe.RECIPE, "ledger_model": ledger_recipe.RECIPE}
OPTIONS = {"model": [], "chat_model": ["--chat"], "ledger_model": ["--ledger"]}
# Qwen2.5's text for these messages, without its default system message.
CHAT = [{"role": "user", "content": "Hi 12"}, {"role": "assistant", "content": "So 3."}]
RENDERED = "<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\nSo 3.<|im_end|>\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Load the tokenizer as verl and vLLM do."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Any:
    """Load the model as verl does."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL)


@pytest.mark.parametrize("name", [*RECIPES])
def test_shipped_files_and_settings_are_those_of_the_manifest(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    folder = ROOT / "tiny" / name
    manifest = json.loads((folder / supervision.MANIFEST).read_text(encoding="utf-8"))
    assert manifest["sha256"] == supervision.checksums(folder)
    assert manifest["settings"] == json.loads(json.dumps(asdict(recipe.settings)))
    assert manifest["command"] == " ".join(["python -m tiny.make_model", *OPTIONS[name], f"--out tiny/{name}"])
    # The tokenizer depends only on the words of the problems.
    recipe.make_tokenizer(recipe.settings).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "accuracies"),
    [
        ("model", ["accuracy"]),
        ("chat_model", ["recheck_accuracy_first", "tool_accuracy"]),
        ("ledger_model", ["accuracy"]),
    ],
)
def test_models_made_again_are_as_accurate_as_the_shipped_ones(
    name: str, accuracies: list[str], tmp_path: Path
) -> None:
    make_model.main([*OPTIONS[name], "--out", str(tmp_path / "model"), "--eval-problems", "200"])
    made, shipped = (
        json.loads((folder / supervision.MANIFEST).read_text(encoding="utf-8"))["measured"]
        for folder in (tmp_path / "model", ROOT / "tiny" / name)
    )
    for key in accuracies:
        # Rounding and so the weights differ between processors: one seed gave 0.30 and 0.41.
        assert made[key] == pytest.approx(shipped[key], abs=0.25)
        assert 0.05 < made[key] < 0.75


def test_tokenizer_round_trips_problems_solutions_and_unseen_text(tokenizer: Any) -> None:
    rows = tiny_problems.generate_rows(50, 11, sloppy_rate=0.5)
    texts = [str(row[key]) for row in rows for key in ("problem", "solution")]
    texts += ["x^2 - \\frac{1}{2}", "naïve ∑ 数学\n\n\tend", "  spaces  "]
    for text in texts:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_every_digit_is_a_token_of_its_own(tokenizer: Any) -> None:
    rows = tiny_problems.generate_rows(50, 12)
    tokens = [token for row in rows for token in tokenizer.tokenize(row["solution"])]
    assert {token for token in tokens if any(c.isdigit() for c in token)} == set("0123456789")
    assert [token for token in tokenizer.tokenize("7 + 1024 = 60") if token.isdigit()] == list("7102460")


def test_tokenizer_file_and_transformers_agree(tokenizer: Any) -> None:
    # transformers loads the Qwen2 tokenizer class for this model, with its own word pattern; supervised training uses
    # the pattern in the file.
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    rows = tiny_problems.generate_rows(50, 15, sloppy_rate=0.5)
    for text in [f"{row['problem']}\n{row['solution']}<|im_end|>\n" for row in rows] + ["it's 1024, 60\n\n  x"]:
        assert raw.encode(text).ids == tokenizer(text)["input_ids"]


def test_special_tokens_are_single_and_have_their_roles(tokenizer: Any) -> None:
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        assert ids == [tokenizer.convert_tokens_to_ids(token)]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer("Hi")["input_ids"] == tokenizer("Hi", add_special_tokens=False)["input_ids"]


def test_chat_template_renders_chatml_exactly(tokenizer: Any) -> None:
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == RENDERED
    rendered = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n"
    system = [{"role": "system", "content": "Be brief."}, *CHAT]
    assert tokenizer.apply_chat_template(system, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n" + RENDERED
    )


def test_training_sequences_are_verls_prompt_and_the_response(tokenizer: Any) -> None:
    row = tiny_problems.generate_rows(1, 13)[0]
    [(tokens, trained)] = supervision.encode_chats(tokenizer, [row])
    prompt_length = trained.index(True)
    assert trained == [False] * prompt_length + [True] * (len(tokens) - prompt_length)
    chat = build_prompt(row["problem"], "plain")
    fed = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    assert tokens[:prompt_length] == fed
    assert tokenizer.decode(tokens[prompt_length:]) == row["solution"] + "<|im_end|>"


def test_labels_cover_the_response_with_its_end_and_nothing_else() -> None:
    import random

    # Prompts (1, 2) and (3,), responses (5, 6, 9) and (7, 9); pad 0. Labels are shifted left by one.
    no, yes = False, True
    sequences = [([1, 2, 5, 6, 9], [no, no, yes, yes, yes]), ([3, 7, 9], [no, yes, yes])]
    [(ids, labels)] = list(supervision.batches(sequences, 2, 0, random.Random(0)))
    rows = sorted(zip(ids.tolist(), labels.tolist(), strict=True))
    skip = supervision.IGNORED
    assert rows == [([1, 2, 5, 6, 9], [skip, 5, 6, 9, skip]), ([3, 7, 9, 0, 0], [7, 9, skip, skip, skip])]


def test_loss_equals_transformers_own_with_an_attention_mask(model: Any, tokenizer: Any) -> None:
    import random

    import torch

    rows = tiny_problems.generate_rows(4, 14)
    [(ids, labels)] = list(supervision.batches(supervision.encode_chats(tokenizer, rows), 4, 0, random.Random(0)))
    shifted = torch.cat([torch.full((4, 1), supervision.IGNORED), labels[:, :-1]], dim=1)
    # Token 0 is padding here and never occurs in a row.
    expected = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=shifted).loss
    torch.testing.assert_close(supervision.response_loss(model, ids, labels), expected, rtol=1e-5, atol=1e-6)


def test_model_has_the_tokenizers_vocabulary_and_tied_float32_embeddings(model: Any, tokenizer: Any) -> None:
    import torch

    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert 400 <= len(tokenizer) <= 500
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (128, 4)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)


def test_generation_config_has_two_ends_and_no_sampling_filter(tokenizer: Any) -> None:
    config = json.loads((MODEL / "generation_config.json").read_text(encoding="utf-8"))
    turn_end, end_of_text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert config["eos_token_id"] == [turn_end, end_of_text]
    assert config["pad_token_id"] == end_of_text
    assert not {"temperature", "top_k", "top_p", "repetition_penalty"} & set(config)


def test_short_training_lowers_the_loss_and_replaces_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "model"
    out.mkdir()
    (out / "stale.txt").write_text("old")
    make_model.main(["--out", str(out), "--steps1", "12", "--steps2", "2", "--eval-problems", "2"])
    manifest = json.loads((out / supervision.MANIFEST).read_text(encoding="utf-8"))
    # A guess among 489 tokens has a loss of ln(489) = 6.19.
    assert manifest["measured"]["loss2"] < 5.5
    assert 0.0 <= manifest["measured"]["accuracy"] <= 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (out / "stale.txt").exists()


@pytest.mark.parametrize(
    ("text", "answer"), [("a \\boxed{1} b \\boxed{12}", "12"), ("none", None), ("\\boxed{1", None)]
)
def test_boxed_answer_is_the_last_complete_one(text: str, answer: str | None) -> None:
    assert measure.boxed_answer(text) == answer
