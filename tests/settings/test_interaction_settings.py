# SPDX-License-Identifier: Apache-2.0
"""The keys of ``treepo.interaction``: rules, command line, and loading of the named class."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.composition import composed
from helpers.configs import briefly, broken_rules, config_of, problems_of
from recipe.treepo.command_line.arguments import read_command_line
from recipe.treepo.evaluation.settings import load_evaluation
from recipe.treepo.interaction import ConversationRules, Interaction, OnError, Steps
from recipe.treepo.main_eval import with_group
from recipe.treepo.main_treepo import prepare
from recipe.treepo.search import SearchKind
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.fallback import FallbackRules, FallbackStart
from recipe.treepo.settings.schema import InteractionSettings, TreePOSettings, leads_conversations, load_settings
from recipe.treepo.settings.validate import validate, validate_trees
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.verl_adapters.user_code import interaction_class, interaction_problems, tool_problems

GROUP = "treepo.interaction"
AGENT = "actor_rollout_ref__rollout__agent__default_agent_loop"
MANAGER = "actor_rollout_ref__rollout__agent__agent_loop_manager_class"
TALK = """
from recipe.treepo.interaction import Interaction

class Talk(Interaction):
    def __init__(self, x, y=2):
        self.x, self.y = x, y

class Picky(Interaction):
    def __init__(self, **options):
        raise ValueError("not\\n  today")

class Other:
    pass

def function(**options):
    return Talk(1)
"""


@pytest.fixture
def talk(tmp_path) -> str:
    (tmp_path / "talk.py").write_text(TALK)
    return str(tmp_path / "talk.py")


def talking(path: str, **keys: Any) -> dict:
    """Return the treepo group with an interaction; ``keys`` with the prefix ``i_`` are keys of the interaction."""
    inner = {key[2:]: value for key, value in keys.items() if key.startswith("i_")}
    outer = {key: value for key, value in keys.items() if not key.startswith("i_")}
    return {**outer, "interaction": {"path": path, "name": "Talk", **inner}}


# --- the rules -------------------------------------------------------------------------------------------------


def test_path_and_name_go_together(talk):
    assert broken_rules(config_of({"interaction": {"path": talk}})) == [f"{GROUP}.name=null: path_without_name"]
    assert broken_rules(config_of({"interaction": {"name": "Talk"}})) == [f"{GROUP}.path=null: path_without_name"]
    assert validate(config_of(talking(talk))).interaction == InteractionSettings(path=talk, name="Talk")


def test_options_need_a_class_that_takes_them(talk):
    config = config_of({"interaction": {"options": {"x": 1}}})
    assert broken_rules(config) == [f"{GROUP}.options={{'x': 1}}: options_without_class"]
    validate(config_of(talking(talk, i_options={"x": 1})))


@pytest.mark.parametrize(("key", "value"), [("turn_length", 50), ("steps", "per_branch")])
def test_keys_of_turns_need_turns(key, value, talk):
    [problem] = problems_of(config_of({"interaction": {key: value}}))
    assert briefly([problem]) == [f"{GROUP}.{key}={value}: no_turns"]
    assert problem.remedy.endswith(f"or {GROUP}.{key}={'null' if key == 'turn_length' else 'shared'}.")
    validate(config_of(talking(talk, **{f"i_{key}": value})))
    validate(config_of({"interaction": {key: value}}, **{AGENT: "tool_agent"}))


@pytest.mark.parametrize("name", ["a b", "", 5, "mine.Talk"])
def test_the_name_is_that_of_a_class(name, talk):
    assert broken_rules(config_of(talking(talk, **{"i_name": name}))) == [f"{GROUP}.name={name}: class_name"]


@pytest.mark.parametrize(
    ("key", "right", "wrong", "least", "instead"),
    [
        ("max_assistant_turns", [None, 0, 1], [-1, 1.5, "abc", True], 0, "null"),
        ("max_user_turns", [None, 0, 1], [-1, 1.5, "abc", True], 0, "null"),
        ("max_parallel_calls", [1, 8], [0, -1, None, 2.0], 1, "1"),
    ],
)
def test_verls_limits_of_turns_and_calls_are_whole_numbers(key, right, wrong, least, instead):
    name = f"actor_rollout_ref.rollout.multi_turn.{key}"
    change = name.replace(".", "__")
    for value in right:
        validate(config_of({}, **{change: value}))
    for value in wrong:
        [problem] = problems_of(config_of({}, **{change: value}))
        assert briefly([problem]) == [f"{name}={value}: turn_limit"]
        assert problem.rule.endswith(f"at least {least}") and problem.remedy == f"Use {name}={instead}."


def test_a_turn_is_no_longer_than_the_response_and_a_segment_no_longer_than_a_turn(talk):
    validate(config_of(talking(talk, i_turn_length=100, segment_length=100)))
    validate(config_of(talking(talk, segment_length=100)))
    assert broken_rules(config_of(talking(talk, i_turn_length=101))) == [f"{GROUP}.turn_length=101: turn_too_long"]
    for segment, turn in ((31, {"i_turn_length": 30}), (101, {})):
        [problem] = problems_of(config_of(talking(talk, segment_length=segment, **turn)))
        assert briefly([problem]) == [f"treepo.segment_length={segment}: segment_longer_than_turn"]
        assert f" {segment - 1} tokens" in problem.rule


@pytest.mark.parametrize(("depth", "segment_length"), [(1, None), (3, 10), (99, 100), (99, None)])
def test_segments_need_not_fit_the_response_of_a_conversation(depth, segment_length, talk):
    shape = {"depth": depth, "segment_length": segment_length}
    validate(config_of(talking(talk, **shape)))
    validate(config_of(shape, **{AGENT: "tool_agent"}))
    if (depth, segment_length) != (1, None):
        assert len(problems_of(config_of(shape))) == 1


def test_a_level_of_a_conversation_is_paid_for_in_whole_turns(talk):
    def config(tokens: int):
        branching = {"budget": "level_tokens", "level_tokens": tokens}
        return config_of(talking(talk, i_turn_length=40, init_divergence=2, branching=branching))

    validate(config(80))
    [problem] = problems_of(config(79))
    assert briefly([problem]) == ["treepo.branching.level_tokens=79: level_tokens_too_few"]
    assert "treepo.branching.level_tokens=80" in problem.remedy


def test_verls_own_sampler_knows_no_interaction(talk):
    config = config_of(talking(talk, sampler="plain"))
    expected = [f"{GROUP}.path={talk}: interaction_with_plain"]
    assert broken_rules(config) == expected
    with pytest.raises(ConfigError) as caught:
        validate_trees(config)
    assert briefly(caught.value.problems) == expected
    validate(config_of({"sampler": "plain"}))
    validate(config_of({"sampler": "plain"}, **{AGENT: "tool_agent"}))


def test_loops_that_share_nothing_need_the_manager_like_trees(talk):
    for treepo in ({"sampler": "independent"}, talking(talk, sampler="independent")):
        assert validate(config_of(treepo)).sampler == "independent"
        [problem] = problems_of(config_of(treepo, **{MANAGER: None}))
        assert briefly([problem]) == [f"{MANAGER.replace('__', '.')}=None: other_manager"]
        assert "treepo.sampler=independent" in problem.rule
    validate(config_of({"sampler": "plain"}, **{MANAGER: None}))
    # segments must fit, as in trees
    config = config_of({"sampler": "independent", "segment_length": 1})
    assert broken_rules(config) == ["treepo.segment_length=1: segments_too_few"]


def test_loops_that_share_nothing_have_no_sub_trees(talk):
    without = {"sampler": "independent", "advantage": {"root_group": False}}
    assert broken_rules(config_of(without)) == ["treepo.advantage.root_group=False: root_group_alone"]


def test_verls_tool_agent_may_be_the_default_agent():
    for agent in ("single_turn_agent", "tool_agent", None):
        config = config_of({}, **{AGENT: agent})
        assert leads_conversations(validate(config), agent) == (agent == "tool_agent")
    assert broken_rules(config_of({}, **{AGENT: "mine"})) == [f"{AGENT.replace('__', '.')}=mine: other_agent"]


@pytest.mark.parametrize(
    "key",
    [
        f"{GROUP}.path",
        "actor_rollout_ref.rollout.multi_turn.function_tool_path",
        "actor_rollout_ref.rollout.multi_turn.tool_config_path",
    ],
)
def test_files_that_are_missing_are_named_except_in_a_dry_run(key):
    config = config_of({"interaction": {"name": "Talk"}}) if key.startswith(GROUP) else config_of()
    OmegaConf.update(config, key, "./nowhere.x", force_add=True)
    assert broken_rules(config) == [f"{key}=./nowhere.x: missing_file"]
    validate(config, check_files=False)
    OmegaConf.update(config, key, "pkg://some.module")
    validate(config)


# --- an evaluation ---------------------------------------------------------------------------------------------


def evaluation_problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_evaluation(composed(*with_group(["preset=tiny", "evaluation.out_dir=out", *overrides])))
    return briefly([problem for problem in caught.value.problems if problem.key.startswith("evaluation.arms")])


def test_an_evaluation_refuses_conversations_and_loops_that_share_nothing(talk):
    assert evaluation_problems(f"+evaluation.arms.talk={{interaction: {{path: '{talk}', name: Talk}}}}") == [
        "evaluation.arms.talk=Talk: no_conversations"
    ]
    assert evaluation_problems("actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent") == [
        f"evaluation.arms.{arm}=tool_agent: no_conversations" for arm in ("plain", "tree")
    ]
    assert evaluation_problems("+evaluation.arms.loops={sampler: independent}") == [
        "evaluation.arms.loops.sampler=independent: no_loops"
    ]


# --- effects of the settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assistant", "user", "expected"),
    # model turns: one at the start, and one after each user turn
    [(None, None, None), (3, None, 3), (None, 3, 4), (4, 3, 4), (3, 3, 3), (5, 3, 4), (0, 0, None)],
)
def test_verls_limits_of_turns_become_most_turns_of_the_model(assistant, user, expected):
    settings = InteractionSettings(turn_length=9, steps=Steps.PER_BRANCH, on_error=OnError.END, timeout_seconds=None)
    assert settings.rules(max_assistant_turns=assistant, max_user_turns=user) == ConversationRules(
        turn_length=9, max_turns=expected, steps=Steps.PER_BRANCH, on_error=OnError.END, timeout_seconds=None
    )


def test_a_segment_of_a_conversation_is_a_turn_unless_it_is_set():
    def length(conversation=True, response_length=100, **changes):
        settings = TreePOSettings(depth=7, **changes)
        shape = settings.shape(width=2, response_length=response_length, progress=0.0, conversation=conversation)
        return shape.segment_length

    turns = InteractionSettings(turn_length=30)
    assert [length(), length(interaction=turns), length(interaction=turns, segment_length=8)] == [100, 30, 8]
    assert [length(False), length(False, interaction=turns)] == [15, 15]  # 100 tokens in 7 segments


def test_loops_that_share_nothing_keep_all_but_the_shape_of_the_tree():
    settings = load_settings(
        OmegaConf.create(
            {
                "treepo": {
                    "divergence": 3,
                    "max_divergence": 2,
                    "branching": {"budget": "total_tokens", "total_tokens": 5, "min_width": 1, "share": "entropy"},
                    "fallback": {"start": "dry"},
                    "max_segments_per_request": 4,
                    "retries": 5,
                    "stop_strings": ["#"],
                    "interaction": {"turn_length": 3},
                }
            }
        )
    )
    assert settings.fallback.start is FallbackStart.DRY
    expected = BranchingRules(divergence=(1, 1), init_divergence=(6, 6))
    loops = settings.independent(6)
    assert loops == replace(
        settings, search=SearchKind.BY_PATH, branching=expected, fallback=FallbackRules(), max_segments_per_request=1
    )
    assert (loops.retries, loops.stop_strings, loops.interaction.turn_length) == (5, ("#",), 3)


# --- the command line ------------------------------------------------------------------------------------------


def test_options_are_the_users_own_keys_with_a_plus_sign_or_without(talk):
    arguments = [
        f"{GROUP}.path={talk}",
        f"{GROUP}.name=Talk",
        f"{GROUP}.options.x=1",
        f"+{GROUP}.options.y.deep=[1,a]",
        f"++{GROUP}.options.z=${{data.max_prompt_length}}",
    ]
    line = read_command_line(arguments)
    assert line.name_problems == []
    assert line.arguments == [*arguments[:2], *(f"++{argument.lstrip('+')}" for argument in arguments[2:])]
    config = composed("preset=tiny", *line.arguments)
    options = load_settings(config).interaction.options
    assert options == {"x": 1, "y": {"deep": [1, "a"]}, "z": config.data.max_prompt_length}
    assert type(options["y"]) is dict  # a user's class gets plain values


def test_options_as_one_group_and_misspelt_neighbours():
    whole = [f"{GROUP}.options={{x: 1}}", f"+{GROUP}.options={{x: 1}}", f"{GROUP}={{name: Talk, options: {{x: 1}}}}"]
    for argument in whole:
        line = read_command_line([argument, f"{GROUP}.optionsx=1", f"{GROUP}.option.x=1"])
        assert [problem.key for problem in line.name_problems] == [f"{GROUP}.optionsx", f"{GROUP}.option.x"]
        assert load_settings(composed("preset=tiny", *line.arguments)).interaction.options == {"x": 1}
    line = read_command_line([f"{GROUP}.options.x=1", f"~{GROUP}.options.x"])
    assert line.name_problems == [] and line.arguments[1] == f"~{GROUP}.options.x"


# --- loading ---------------------------------------------------------------------------------------------------


def settings_of(path: str, name: str = "Talk", **options: Any) -> InteractionSettings:
    return InteractionSettings(path=path, name=name, options=options)


def problem_of(settings: InteractionSettings) -> ConfigProblem:
    [problem] = interaction_problems(settings)
    assert "\n" not in str(problem)
    return problem


def not_loaded(path: str) -> str:
    """Return the rule of a file or package that cannot be loaded; it contains the error of the loaded code."""
    problem = problem_of(settings_of(path))
    assert briefly([problem]) == [f"{GROUP}.path={path}: class_not_loaded"]
    return problem.rule


def test_a_class_in_a_file_or_a_package_is_loaded_and_takes_its_options(talk, monkeypatch):
    assert interaction_problems(InteractionSettings()) == [] and interaction_class(InteractionSettings()) is None
    assert interaction_problems(settings_of(talk, x=1)) == []
    made = interaction_class(settings_of(talk))(x=1, y=5)
    assert isinstance(made, Interaction) and (made.x, made.y) == (1, 5)
    assert interaction_problems(settings_of("pkg://recipe.treepo.tools", "ToolInteraction")) == []
    monkeypatch.setenv("HOME", str(Path(talk).parent))
    assert interaction_problems(settings_of("~/talk.py", x=1)) == []


def test_a_failed_load_is_reported_with_the_error_of_the_code(talk, tmp_path):
    for code, reason in [
        ("raise KeyError('no key')", "KeyError: 'no key'"),
        ("import nothing_of_that_name_a", "ModuleNotFoundError: No module named 'nothing_of_that_name_a'"),
        ("import os\nos.nothing", "AttributeError: module 'os' has no attribute 'nothing'"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ]:
        (tmp_path / "broken.py").write_text(code)
        file = str(tmp_path / "broken.py")
        assert not_loaded(file).endswith(f"({reason})")
    (tmp_path / "broken.py").write_text("class Talk(:")
    assert "(SyntaxError: invalid syntax" in not_loaded(file)
    assert "(FileNotFoundError: " in not_loaded(f"{tmp_path}/none.py")
    assert "(ModuleNotFoundError: " in not_loaded("pkg://nothing_of_that_name_b")


def test_an_attribute_error_in_a_package_is_not_a_missing_name(tmp_path, monkeypatch):
    (tmp_path / "broken_package_of_treepo.py").write_text("import os\nos.nothing")
    monkeypatch.syspath_prepend(tmp_path)
    reason = "(AttributeError: module 'os' has no attribute 'nothing')"
    assert not_loaded("pkg://broken_package_of_treepo").endswith(reason)


def test_a_class_that_cannot_be_an_interaction_is_a_problem(talk):
    name = f"{GROUP}.name"
    problem = problem_of(settings_of(talk, "Tlak"))
    assert briefly([problem]) == [f"{name}=Tlak: class_not_found"] and talk in problem.rule
    for other in ("Other", "function"):
        assert briefly([problem_of(settings_of(talk, other))]) == [f"{name}={other}: not_an_interaction"]
    problem = problem_of(settings_of(talk, zzz=1))
    assert briefly([problem]) == [f"{GROUP}.options={{'zzz': 1}}: options_refused"]
    assert problem.rule.endswith("(TypeError: Talk.__init__() got an unexpected keyword argument 'zzz')")
    without = problem_of(settings_of(talk))
    assert without.rule.endswith("(TypeError: Talk.__init__() missing 1 required positional argument: 'x')")
    picky = problem_of(settings_of(talk, "Picky"))
    assert picky.rule_id == "options_refused" and picky.rule.endswith("(ValueError: not today)")


@pytest.mark.parametrize("method", ["setup", "tool_schemas", "stop_token_ids"])
def test_methods_called_directly_must_not_be_coroutines(method, tmp_path):
    lines = "from recipe.treepo.interaction import Interaction\nclass Talk(Interaction):\n    async def "
    (tmp_path / "talk.py").write_text(f"{lines}{method}(self, *args): ...\n")
    problem = problem_of(settings_of(str(tmp_path / "talk.py")))
    assert briefly([problem]) == [f"{GROUP}.name=Talk: coroutine"] and method in problem.rule


def test_function_tools_and_their_parser_are_tried_before_a_run(tmp_path):
    group = "actor_rollout_ref.rollout.multi_turn"

    def problems(**keys):
        return tool_problems(OmegaConf.create({"actor_rollout_ref": {"rollout": keys}}))

    def tried(code):
        """Return the rules that a file violates."""
        file = tmp_path / f"tools{len(list(tmp_path.iterdir()))}.py"  # new name, because verl caches loaded files
        file.write_text(code)
        found = problems(multi_turn={"function_tool_path": str(file), "format": "hermes"})
        assert all(briefly([p]) == [f"{group}.function_tool_path={file}: tools_not_loaded"] for p in found)
        return [problem.rule for problem in found]

    assert problems() == problems(multi_turn={"function_tool_path": None, "format": "glm"}) == []
    assert tried("raise ValueError('two\\nlines')") == ["cannot be loaded (ValueError: two lines)"]
    assert tried("x = 1") == ["has no function with verl's @function_tool"]
    tool = "from verl.tools.function_tool import function_tool\n@function_tool\ndef tried_before_a_run():\n    "
    assert tried(f'{tool}"""Do nothing."""') == []
    assert tried(f"{tool}pass")[0].startswith("cannot be loaded (DocstringParsingException: ")
    assert problems(multi_turn={"function_tool_path": str(tmp_path / "none.py")}) == []  # reported by validate.py
    [problem] = problems(multi_turn={"function_tool_path": ["a"]})
    assert problem.value == ["a"] and "(TypeError: " in problem.rule
    [problem] = problems(multi_turn={"format": "xyz"})
    assert briefly([problem]) == [f"{group}.format=xyz: unknown_parser"]
    assert problem.remedy.startswith("Use one of deepseek_v4, ")
    with pytest.raises(ConfigError) as caught:
        prepare(composed("preset=tiny", f"{group}.format=xyz"), [], dry_run=True)
    assert briefly(caught.value.problems) == briefly([problem])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("tools:\n- {class_name: verl.tools.base_tool.BaseTool, config: {type: native}}", None),
        ("tools: []", "has an empty list of tools"),
        ("- tools", "has no list of tools under the key tools"),
        ("tools: [", "cannot be loaded (ParserError: "),
        ("tools:\n- {class_name: verl.tools.base_tool.Nobody, config: {type: native}}", "AttributeError: "),
        ("tools:\n- {class_name: verl.tools.base_tool.BaseTool}", "cannot be loaded (KeyError: 'config')"),
        ("tools:\n- {class_name: verl.tools.base_tool.BaseTool, config: {type: x}}", "'x' is not a valid ToolType"),
        (
            "tools:\n- {class_name: verl.tools.base_tool.BaseTool, config: {type: native}, tool_schema: {type: 1}}",
            "cannot be loaded (ValidationError: ",
        ),
    ],
)
def test_classes_of_tools_are_loaded_before_a_run_and_none_is_made(text, rule, tmp_path):
    key, file = "actor_rollout_ref.rollout.multi_turn.tool_config_path", tmp_path / "tools.yaml"
    file.write_text(text)
    config = OmegaConf.create({})
    OmegaConf.update(config, key, str(file))
    problems = tool_problems(config)
    if rule is None:
        assert problems == []
    else:
        [problem] = problems
        assert briefly([problem]) == [f"{key}={file}: tools_not_loaded"]
        assert rule in problem.rule and problem.remedy == "Name a YAML file with verl's tools."


def test_the_class_is_loaded_before_a_run_unless_its_file_is_to_be_made(talk):
    def config(path, **options):
        keys = [f"{GROUP}.path={path}", f"{GROUP}.name=Talk", *(f"++{GROUP}.options.{key}=1" for key in options)]
        return composed("preset=tiny", *keys)

    prepare(config(talk, x=1), [], dry_run=True)
    prepare(config("./none.py"), [], dry_run=True)
    with pytest.raises(ConfigError) as caught:
        prepare(config(talk), [], dry_run=True)
    assert briefly(caught.value.problems) == [f"{GROUP}.options={{}}: options_refused"]
    with pytest.raises(ConfigError) as caught:
        prepare(config("./none.py"), [], dry_run=False)
    assert f"{GROUP}.path=./none.py: missing_file" in briefly(caught.value.problems)
