# SPDX-License-Identifier: Apache-2.0
"""End tokens of a model and of its chat template."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipe.treepo.verl_adapters.model_tokens import eos_token_ids, opens_thought, turn_end


def test_end_tokens_are_gathered_from_tokenizer_config_and_generation_config():
    model = SimpleNamespace(
        tokenizer=SimpleNamespace(eos_token_id=5),
        hf_config=SimpleNamespace(eos_token_id=None),
        generation_config=SimpleNamespace(eos_token_id=[5, 7]),
    )
    assert eos_token_ids(model) == {5, 7}
    model.generation_config, model.hf_config = None, SimpleNamespace(eos_token_id=9)
    assert eos_token_ids(model) == {5, 9}


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}", "<|im_end|>"),
        ("{{ '<|' + m['role'] + '|>' + m['content'] }}", None),
        ("{{ m['role'] + ': ' + m['content'] + '\n' }}", None),
    ],
)
def test_a_turn_ends_with_the_chat_templates_token_not_the_tokenizers(template, end):
    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"asked said:\n<|>rutn"]
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(dict.fromkeys(vocabulary))}))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", additional_special_tokens=special
    )
    tokenizer.chat_template = "{% for m in messages %}" + template + "{% endfor %}"
    assert turn_end(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


@pytest.mark.parametrize(
    ("opening", "opens"), [("<think>", True), ("<think>\n", True), ("<think>\n\n</think>\n\n", False), ("", False)]
)
def test_a_template_may_open_a_thought(opening, opens):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    begin = "{% if add_generation_prompt and not quick %}assistant: " + opening + "{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}" + begin
    assert opens_thought(tokenizer, {}) is opens
    assert opens_thought(tokenizer, {"quick": True}) is False
    tokenizer.chat_template = "{{ raise_exception('a system message must come first') }}"
    assert opens_thought(tokenizer, {}) is False
