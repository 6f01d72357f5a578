# SPDX-License-Identifier: Apache-2.0
"""End tokens and thinking tags of a model and of its chat template."""

from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipe.treepo.answers.thinking import NO_THINKING, Thinking
from recipe.treepo.settings.schema import TreePOSettings
from recipe.treepo.settings.values import ConfigError
from recipe.treepo.verl_adapters.model_tokens import eos_token_ids, turn_end, with_tags


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


# The ends of the templates of Qwen3 and of DeepSeek-R1's distillates.
QWEN3 = "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
R1 = "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<think>\n' }}"
OTHER = Thinking("<t>", "</t>")


def tokenizer_with(template: object, *tokens: AddedToken) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    tokenizer.add_tokens(list(tokens))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "setting", "expected"),
    [
        (QWEN3, None, Thinking()),
        (R1, None, Thinking()),
        ({"default": "x", "tool_use": R1}, None, Thinking()),
        ("{{ content }}", None, None),
        (None, None, None),
        (QWEN3, OTHER, OTHER),
        (QWEN3, NO_THINKING, NO_THINKING),
        (None, OTHER, OTHER),
    ],
)
def test_tags_are_those_of_the_setting_or_of_the_chat_template(template, setting, expected):
    ordinary = [AddedToken(tag, special=False) for tag in ("<think>", "</think>", "<t>", "</t>")]
    found = with_tags(TreePOSettings(thinking=setting, depth=3), tokenizer_with(template, *ordinary))
    assert found == TreePOSettings(thinking=expected, depth=3)
    assert found.tags == (expected or Thinking())


def test_tags_that_are_special_tokens_are_refused():
    special = [AddedToken(tag, special=True) for tag in ("</think>", "<t>")]
    for template, setting, tag in ((QWEN3, None, "</think>"), (None, OTHER, "<t>")):
        tokenizer = tokenizer_with(template, *special)
        tag_ids = tokenizer.convert_tokens_to_ids([tag])
        assert (tokenizer.decode(tag_ids), tokenizer.decode(tag_ids, skip_special_tokens=True)) == (tag, "")
        with pytest.raises(ConfigError) as caught:
            with_tags(TreePOSettings(thinking=setting), tokenizer)
        [problem] = caught.value.problems
        assert (problem.rule_id, problem.key) == ("thinking_special", "treepo.thinking")
        assert problem.rule.startswith(f"{tag} is a special token")
        assert with_tags(TreePOSettings(thinking=NO_THINKING), tokenizer).thinking == NO_THINKING
    # a model without tags in its template works as before
    assert with_tags(TreePOSettings(), tokenizer_with("{{ content }}", *special)).thinking is None
