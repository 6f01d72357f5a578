# SPDX-License-Identifier: Apache-2.0
"""Claims about the tiny model's directory; all but one hold for random weights, which take seconds to make."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_prep import tiny_problems
from data_prep.prompts import build_prompt
from load_file import load_file

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "make_tiny_model.py"
# What Qwen2.5 renders for these messages, without the system message that it adds by itself.
CHAT = [{"role": "user", "content": "Hi 12"}, {"role": "assistant", "content": "So 3."}]
RENDERED = "<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\nSo 3.<|im_end|>\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Load the script by its path: verl installs a package called ``scripts``."""
    return load_file("scripts/make_tiny_model.py", register=True)


@pytest.fixture(scope="module")
def shared(script: ModuleType) -> ModuleType:
    """Return the module that the scripts share; the script puts its folder on the path."""
    return sys.modules[script.Recipe.__module__]


@pytest.fixture(scope="module")
def model_dir(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model with random weights once."""
    out = tmp_path_factory.mktemp("tiny") / "model"
    script.main(["--out", str(out), "--random-weights"])
    return out


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Any:
    """Load the tokenizer as verl and vLLM do."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Any:
    """Load the model as verl does."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir)


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


def test_tokenizer_file_and_transformers_agree(model_dir: Path, tokenizer: Any) -> None:
    # transformers loads the Qwen2 tokenizer class for this model and brings its own way to cut words; the
    # supervised training goes by what is in the file.
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
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


def test_training_sequences_are_what_verl_feeds_followed_by_the_response(shared: ModuleType, tokenizer: Any) -> None:
    row = tiny_problems.generate_rows(1, 13)[0]
    [(tokens, trained)] = shared.encode_chats(tokenizer, [row])
    prompt_length = trained.index(True)
    assert trained == [False] * prompt_length + [True] * (len(tokens) - prompt_length)
    chat = build_prompt(row["problem"], "plain")
    fed = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    assert tokens[:prompt_length] == fed
    assert tokenizer.decode(tokens[prompt_length:]) == row["solution"] + "<|im_end|>"


def test_labels_cover_the_response_with_its_end_and_nothing_else(shared: ModuleType) -> None:
    import random

    # Prompts (1, 2) and (3,), responses (5, 6, 9) and (7, 9); pad 0. Labels stand one place to the left.
    no, yes = False, True
    sequences = [([1, 2, 5, 6, 9], [no, no, yes, yes, yes]), ([3, 7, 9], [no, yes, yes])]
    [(ids, labels)] = list(shared.batches(sequences, 2, 0, random.Random(0)))
    rows = sorted(zip(ids.tolist(), labels.tolist(), strict=True))
    skip = shared.IGNORED
    assert rows == [([1, 2, 5, 6, 9], [skip, 5, 6, 9, skip]), ([3, 7, 9, 0, 0], [7, 9, skip, skip, skip])]


def test_loss_equals_transformers_own_with_an_attention_mask(
    script: ModuleType, shared: ModuleType, model: Any, tokenizer: Any
) -> None:
    import random

    import torch

    rows = tiny_problems.generate_rows(4, 14)
    [(ids, labels)] = list(shared.batches(shared.encode_chats(tokenizer, rows), 4, 0, random.Random(0)))
    shifted = torch.cat([torch.full((4, 1), shared.IGNORED), labels[:, :-1]], dim=1)
    # Special token 0 is the padding here; it never occurs in a row.
    expected = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=shifted).loss
    torch.testing.assert_close(shared.response_loss(model, ids, labels), expected, rtol=1e-5, atol=1e-6)


def test_model_loads_with_the_tokenizers_vocabulary_tied_embeddings_and_float32(model: Any, tokenizer: Any) -> None:
    import torch

    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert 400 <= len(tokenizer) <= 500
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (128, 4)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)


def test_generation_config_names_two_ends_of_sequence_and_sets_no_sampling_filter(
    model_dir: Path, tokenizer: Any
) -> None:
    config = json.loads((model_dir / "generation_config.json").read_text(encoding="utf-8"))
    turn_end, end_of_text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert config["eos_token_id"] == [turn_end, end_of_text]
    assert config["pad_token_id"] == end_of_text
    assert not {"temperature", "top_k", "top_p", "repetition_penalty"} & set(config)


def test_cached_model_is_kept_in_less_than_two_seconds_without_importing_torch(model_dir: Path) -> None:
    before = (model_dir / "model.safetensors").stat().st_mtime_ns
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    started = time.perf_counter()
    command = [sys.executable, "-c", code, str(SCRIPT), "--out", str(model_dir), "--random-weights"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 2.0
    assert "kept the model" in done.stdout
    assert (model_dir / "model.safetensors").stat().st_mtime_ns == before


def test_cache_is_missed_for_other_settings_and_for_an_incomplete_directory(
    script: ModuleType, shared: ModuleType, model_dir: Path
) -> None:
    def cached(directory: Path, **fields: Any) -> dict[str, Any] | None:
        made_from = shared.fingerprint(script.Settings(**fields), script.SOURCES)
        return shared.cached_manifest(directory, made_from)

    assert cached(model_dir, random_weights=True)
    assert cached(model_dir, random_weights=True, seed=1) is None
    assert cached(model_dir) is None
    assert cached(model_dir.with_name("absent"), random_weights=True) is None
    config = model_dir / "generation_config.json"
    moved = config.rename(config.with_suffix(".moved"))
    assert cached(model_dir, random_weights=True) is None
    moved.rename(config)


def test_code_fingerprint_sees_code_and_not_comments(shared: ModuleType, tmp_path: Path) -> None:
    variants = ["x = 1\n", '"""Doc."""\nx = 1  # one\n', "x = 2\n"]
    paths = [tmp_path / f"{index}.py" for index in range(3)]
    for path, text in zip(paths, variants, strict=True):
        path.write_text(text, encoding="utf-8")
    same, commented, other = (shared.code_fingerprint(path) for path in paths)
    assert same == commented != other


def test_short_training_lowers_the_loss_and_replaces_the_directory(
    script: ModuleType, shared: ModuleType, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "stale.txt").write_text("old")
    script.main(["--out", str(out), "--steps1", "12", "--steps2", "2", "--eval-problems", "2"])
    manifest = json.loads((out / shared.MANIFEST).read_text(encoding="utf-8"))
    # A guess among 489 tokens has a loss of ln(489) = 6.19.
    assert manifest["measured"]["loss2"] < 5.5
    assert 0.0 <= manifest["measured"]["accuracy"] <= 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (out / "stale.txt").exists()


@pytest.mark.parametrize(
    ("text", "answer"), [("a \\boxed{1} b \\boxed{12}", "12"), ("none", None), ("\\boxed{1", None)]
)
def test_boxed_answer_is_the_last_complete_one(shared: ModuleType, text: str, answer: str | None) -> None:
    assert shared.boxed_answer(text) == answer
