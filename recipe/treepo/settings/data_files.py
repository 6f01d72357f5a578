# SPDX-License-Identifier: Apache-2.0
"""Check the data files of a run: columns, and a sample of rows by the rules of `data_rows.py`.

Only rows with which verl fails are problems. With a data set class, an agent loop or a reward of the user's own, the
rules for what these read do not apply.
"""

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.treepo.settings.chat_tokens import PromptTokens, TemplateRefusal
from recipe.treepo.settings.data_reading import (
    SUFFIXES,
    UNREADABLE,
    DataFileError,
    Row,
    RowFile,
    open_rows,
    read_first_row,
)
from recipe.treepo.settings.data_rows import MEDIA, PRIORITY, ROLLOUTS, TURNS, Finding, column_problems, row_findings
from recipe.treepo.settings.model_files import (
    ACTOR,
    excerpt,
    finder,
    is_template,
    local_folder,
    models_of,
    reads_messages,
)
from recipe.treepo.settings.schema import Sampler
from recipe.treepo.settings.training_rules import is_our_reward
from recipe.treepo.settings.values import ConfigProblem, listed

SAMPLE_ROWS = 20_000
"""Maximum rows of all files together, but at least `_LEAST_ROWS` of each."""
_LEAST_ROWS = 256
# Limits on the prompts whose tokens are counted, of a file: the longest ones, and characters of all and of each.
_COUNTED, _COUNTED_CHARS, _CHARS_PER_TOKEN = 100, 300_000, 40
_CHECK = "python -m recipe.treepo.data_prep.check"
_MEDIA_KEYS = dict(zip(MEDIA, ("image_key", "video_key", "audio_key"), strict=True))
_PROMPT = {Finding.NO_MESSAGES, Finding.JSON_PROMPT, Finding.BAD_MESSAGE, Finding.TEMPLATE}


def data_problems(config: DictConfig, keys: Sequence[str], notes: list[ConfigProblem]) -> list[ConfigProblem]:
    """Return the problems of existing data files; append to ``notes`` what verl accepts but the user may not want."""
    files = {key: [path for path in paths_of(config, key) if files_of(path)] for key in keys}
    number = sum(len(files_of(path)) for paths in files.values() for path in paths)
    tokens = _prompt_tokens(config) if number and reads_messages(config) else None
    problems: list[ConfigProblem] = []
    for key, paths in files.items():
        rules = _Rules.of(config, key, tokens)
        for path in paths:
            for file in files_of(path):
                only = [file] == [other for own in paths for other in files_of(own)]
                check = _FileCheck(rules, key, file, max(_LEAST_ROWS, SAMPLE_ROWS // number), only=only)
                problems += [problem for problem in check.problems() if problem not in problems]
                notes += check.notes
    return problems


def paths_of(config: DictConfig, key: str) -> list[str]:
    """Return the paths under a key with one path or a list; none for the text of a list, which has its own rule."""
    value = OmegaConf.select(config, key)
    if key.endswith("_files") and is_list_text(value):
        return []
    return [str(path) for path in listed(value) if path is not None]


def is_list_text(value: object) -> bool:
    """Return whether a value is a text such as ``[a.parquet,b.parquet]``, from a list in two kinds of quotes."""
    return isinstance(value, str) and value.startswith("[") and value.endswith("]")


def first_row(config: DictConfig, key: str) -> Row:
    """Return the first row of the data files under a key, empty if none can be read here."""
    for file in [file for path in paths_of(config, key) for file in files_of(path)]:
        with contextlib.suppress(DataFileError, OSError, *UNREADABLE):
            if row := read_first_row(Path(file)):
                return row
    return {}


def files_of(path: str) -> list[str]:
    """Return the existing local files and folders of a path, which may be a pattern such as data/*.parquet."""
    if re.match(r"\w+://", path):
        return []
    place = os.path.expanduser(path)
    return [place] if os.path.exists(place) else sorted(glob.glob(place)) if glob.has_magic(place) else []


@dataclass(frozen=True, slots=True)
class _Rules:
    """What reads the rows in this run.

    Attributes:
        own_class: A data set class of the user's own reads the files.
        media: Columns with images, video and audio by verl's names of them; empty if they are allowed.
        needed: Columns that a row needs.
        refused: Findings with which verl fails, here or when a row is drawn.
        noted: Findings with which it trains, though hardly as meant.
        filters: verl drops prompts that are too long or that it cannot render.
        max_length: Limit on the tokens of a prompt, None if unknown.
        truncation: ``data.truncation``.
        tokens: Counter of the prompts' tokens, None if unknown.
        template: Key and value that determine the chat template.
    """

    own_class: bool
    prompt_key: str
    media: Mapping[str, str]
    needed: tuple[str, ...]
    refused: frozenset[Finding]
    noted: frozenset[Finding]
    filters: bool
    max_length: int | None
    truncation: str
    tokens: PromptTokens | None
    template: tuple[str, str]

    @classmethod
    def of(cls, config: DictConfig, key: str, tokens: PromptTokens | None) -> "_Rules":
        """Return the rules for the files under a key."""
        refused = {Finding.EXTRA_INFO, Finding.ROLLOUTS, Finding.TURNS}
        noted = {Finding.UNKNOWN_ROLE, Finding.BLANK_PROMPT}
        if reads_messages(config):
            refused |= _PROMPT | {Finding.PRIORITY}
        scores = OmegaConf.select(config, "reward.reward_manager.source") in (None, "register")
        if scores and not OmegaConf.select(config, "reward.reward_model.enable"):
            refused.add(Finding.NO_REWARD_MODEL)
            if is_our_reward(config):
                refused |= {Finding.NO_TRUTH, Finding.ODD_TRUTH, Finding.DATE_TRUTH, Finding.EMPTY_TRUTH}
                noted.add(Finding.NO_ANSWER)
        media = {}
        if _replaces_agents(config, key):
            refused |= {Finding.AGENT, Finding.MULTI_MODAL}
            media = {name: str(OmegaConf.select(config, f"data.{key}") or name) for name, key in _MEDIA_KEYS.items()}
        prompt_key = str(OmegaConf.select(config, "data.prompt_key") or "prompt")
        lengths = ("actor_rollout_ref.rollout.prompt_length", "data.max_prompt_length")
        length = next((value for name in lengths if isinstance(value := OmegaConf.select(config, name), int)), None)
        return cls(
            own_class=OmegaConf.select(config, "data.custom_cls.path") is not None,
            prompt_key=prompt_key,
            media=media,
            needed=(prompt_key, "data_source", "reward_model") if scores else (prompt_key,),
            refused=frozenset(refused),
            noted=frozenset(noted),
            filters=bool(OmegaConf.select(config, "data.filter_overlong_prompts")),
            max_length=length,
            truncation=str(OmegaConf.select(config, "data.truncation") or "error"),
            tokens=tokens,
            template=_template_of(config),
        )


def _template_of(config: DictConfig) -> tuple[str, str]:
    """Return the key that determines the chat template, and its value; a template is shortened."""
    keys = [f"{ACTOR}.{name}" for name in ("custom_chat_template", "tokenizer_path", "path")]
    values = {key: str(value) for key in keys if (value := OmegaConf.select(config, key)) is not None}
    key, value = next(iter(values.items()), (keys[-1], ""))
    return key, excerpt(value) if key == keys[0] else value


def _replaces_agents(config: DictConfig, key: str) -> bool:
    """Return whether trees or loops of this recipe sample the rows under a key."""
    if OmegaConf.select(config, "treepo.sampler") == Sampler.PLAIN:
        return False
    return key != "data.val_files" or bool(OmegaConf.select(config, "treepo.validate_with_tree"))


def _prompt_tokens(config: DictConfig) -> PromptTokens | None:
    """Return the counter for the actor's tokenizer; None without a local one, or with code of the model's authors."""
    model = next((model for model in models_of(config) if model.key == ACTOR), None)
    if model is None or model.group.get("trust_remote_code"):
        return None
    if (own := model.group.get("custom_chat_template")) is not None and not is_template(str(own)):
        return None  # model_files.py reports it
    folder = local_folder(model.tokenizer_path)
    if folder is None:
        return None
    options: Any = OmegaConf.select(config, "data.apply_chat_template_kwargs")
    options = OmegaConf.to_container(options, resolve=True) if OmegaConf.is_dict(options) else {}
    try:
        return PromptTokens(finder(folder), own, options)
    except (ValueError, OSError, LookupError, TypeError, AttributeError):  # model_files.py reports it
        return None


@dataclass(slots=True)
class _FileCheck:
    """Check of one file.

    Attributes:
        most: Maximum rows of the sample.
        only: Whether the key has no other file.
        notes: Findings that are not problems.
        places: First row of each finding, and number of rows.
        refusal: First error of the chat template.
    """

    rules: _Rules
    key: str
    file: str
    most: int
    only: bool = False
    notes: list[ConfigProblem] = field(default_factory=list)
    places: dict[Finding, tuple[int, int]] = field(default_factory=dict)
    refusal: str = ""
    rows_read: int = 0

    def problems(self) -> list[ConfigProblem]:
        """Return the problems, and set the notes."""
        if self.rules.own_class:
            return []
        if os.path.isdir(self.file):
            rule, remedy = "is a folder, but verl reads files", f"Name its files, such as {self.file}/*.parquet."
            return [ConfigProblem("data_folder", self.key, self.file, rule, remedy)]
        if not self.file.endswith(SUFFIXES):
            return []
        try:
            with open_rows(Path(self.file), most_json_rows=self.most) as file:
                return list(self._problems_of(file))
        except DataFileError as error:
            return [ConfigProblem(error.rule_id, self.key, self.file, error.rule, error.remedy + self._details())]

    def _details(self) -> str:
        return f" For details run `{_CHECK} {self.file}`."

    def _problems_of(self, file: RowFile) -> Iterator[ConfigProblem]:
        if file.num_rows is None:
            return
        if file.num_rows == 0:
            remedy = "Prepare it again." + self._details()
            yield ConfigProblem("empty_file", self.key, self.file, "has no rows", remedy)
            return
        wrong = column_problems(file.columns, self.rules.needed)
        for problem in wrong:
            yield ConfigProblem(problem.rule_id, self.key, self.file, problem.rule, problem.remedy + self._details())
        if not any(problem.rule_id in ("missing_column", "duplicate_column") for problem in wrong):
            yield from self._row_problems(file)

    def _row_problems(self, file: RowFile) -> Iterator[ConfigProblem]:
        names = ("extra_info", "agent_name", PRIORITY, ROLLOUTS, TURNS, *self.rules.media.values())
        wanted = [*self.rules.needed, *(name for name in names if name in file.columns)]
        prompts: list[tuple[int, Any]] = []
        for first, rows in file.batches(wanted, self.most):
            for number, row in enumerate(rows, start=first):
                media = {name: row.get(own) for name, own in self.rules.media.items()}
                findings = row_findings({**row, "prompt": row.get(self.rules.prompt_key), **media})
                if Finding.AGENT in findings:  # an agent of the user's own may read any prompt
                    findings -= _PROMPT | {Finding.PRIORITY}
                self._add(number, findings)
                is_text = findings.isdisjoint(_PROMPT | {Finding.AGENT, Finding.MULTI_MODAL, Finding.BLANK_PROMPT})
                if is_text and self.rules.tokens is not None:
                    prompts.append((number, row[self.rules.prompt_key]))
            self.rows_read += len(rows)
        yield from self._length_problems(prompts)
        for finding, (row_number, count) in self.places.items():
            detail = f" ({self.refusal})" if finding is Finding.TEMPLATE else ""
            rule = f"row {row_number}: {self._column(finding)}{finding.reason}{detail}"
            rule += f" ({count} of {self.rows_read} rows read)"
            remedy = f"{finding.remedy[0].upper()}{finding.remedy[1:]}.{self._details()}"
            problem = ConfigProblem("unusable_row", self.key, self.file, rule, remedy)
            is_dropped = self.rules.filters and finding in _PROMPT and count < self.rows_read
            if finding in self.rules.refused and not is_dropped:
                yield problem
            elif finding in self.rules.noted | (self.rules.refused if is_dropped else set()):
                self.notes.append(problem)

    def _column(self, finding: Finding) -> str:
        named = finding in _PROMPT and self.rules.prompt_key != "prompt"
        return f"column {self.rules.prompt_key}: " if named else ""

    def _add(self, number: int, findings: set[Finding]) -> None:
        for finding in findings:
            first, count = self.places.get(finding, (number, 0))
            self.places[finding] = (min(first, number), count + 1)

    def _length_problems(self, prompts: list[tuple[int, Any]]) -> Iterator[ConfigProblem]:
        """Apply the chat template to one prompt of each sequence of roles, and count the tokens of the longest."""
        tokens, most = self.rules.tokens, self.rules.max_length
        if tokens is None or not prompts:
            return
        if (problem := self._template_problem(tokens, *prompts[0])) is not None:
            yield problem
            return
        overhead: dict[tuple[str, ...], int | None] = {}
        sizes: list[tuple[int, int, Any]] = []
        for number, prompt in prompts:
            roles = tuple(message["role"] for message in prompt)
            size = sum(_bytes(message["content"]) for message in prompt)
            if roles not in overhead:
                overhead[roles] = self._overhead(tokens, number, prompt, size)
            if (more := overhead[roles]) is not None and most is not None and size + more > most:
                sizes.append((size, number, prompt))  # a token has at least one byte
        if most is None:
            return
        if self.rules.filters:
            is_whole = self.only and self.rows_read == len(sizes) < self.most
            yield from self._dropped_prompts(tokens, most, sorted(sizes, key=lambda item: item[0])) if is_whole else ()
        else:
            yield from self._cut_prompts(tokens, most, sorted(sizes, key=lambda item: -item[0])[:_COUNTED])

    def _template_problem(self, tokens: PromptTokens, number: int, prompt: Any) -> ConfigProblem | None:
        """Return the problem of a chat template that fails for any prompt, or is the same for all."""
        user = [{"role": "user", "content": "P"}]
        try:
            if any(not isinstance(message["content"], str) for message in prompt) or not tokens.ignores(prompt):
                return None
            rule = "template gives the same text for all prompts"
        except TemplateRefusal as error:
            if not error.is_certain:
                return None
            try:
                tokens.text(user)
                return None  # it refuses these messages only
            except TemplateRefusal:
                rule = f"template fails even for a single message of a user ({error})"
        key, value = self.rules.template
        is_own = key.endswith("template")
        remedy = "Correct it, or leave it out." if is_own else f"Correct it, or set {ACTOR}.custom_chat_template."
        return ConfigProblem("chat_template_fails", key, value, f"the {rule}" if is_own else f"its chat {rule}", remedy)

    def _overhead(self, tokens: PromptTokens, number: int, prompt: Any, size: int) -> int | None:
        """Return the bytes that the chat template adds; None if it refuses the prompt."""
        try:
            return max(0, len(tokens.text(prompt).encode("utf-8", "replace")) - size)
        except TemplateRefusal as error:
            if error.is_certain:
                self.refusal = self.refusal or str(error)
                self._add(number, {Finding.TEMPLATE})
            return None

    def _dropped_prompts(
        self, tokens: PromptTokens, most: int, shortest: list[tuple[int, int, Any]]
    ) -> Iterator[ConfigProblem]:
        """Check that a prompt is short enough to be kept; with too much text to count, this remains unknown."""
        left = _COUNTED_CHARS
        for _, _, prompt in shortest:
            text = tokens.text(prompt)
            left -= len(text)
            if left < 0 or tokens.count(text) <= most:
                return
        rule = (
            f"all {self.rows_read} prompts of {self.file} are longer, and data.filter_overlong_prompts=true drops them"
        )
        key = "data.max_prompt_length"
        yield ConfigProblem("all_prompts_dropped", key, most, rule, f"Use a larger {key}, or other data.")

    def _cut_prompts(
        self, tokens: PromptTokens, most: int, longest: list[tuple[int, int, Any]]
    ) -> Iterator[ConfigProblem]:
        found: list[tuple[int, int, bool]] = []
        left = _COUNTED_CHARS
        for _, number, prompt in longest:
            text = tokens.text(prompt)
            part = text[: max(4_096, _CHARS_PER_TOKEN * most)]
            left -= len(part)
            if left < 0 and found:
                break
            if (count := tokens.count(part)) > most:
                found.append((count, number, len(part) < len(text)))
        if not found:
            return
        count, number, is_part = max(found)
        length, key = f"more than {count}" if is_part else str(count), "data.max_prompt_length"
        rule = f"row {number} of {self.file} has a prompt of {length} tokens, and verl cuts off the beginning of such "
        rule += f"prompts (at least {len(found)} of {self.rows_read} rows read)"
        remedy = "Use data.filter_overlong_prompts=true to drop these rows, or a larger data.max_prompt_length"
        if self.rules.truncation == "error":
            rule += ", even with data.truncation=error"
            yield ConfigProblem("prompt_too_long", key, most, rule, f"{remedy}, or data.truncation=left to accept it.")
        else:
            self.notes.append(ConfigProblem("prompt_too_long", key, most, rule, f"{remedy}."))


def _bytes(content: Any) -> int:
    """Return the bytes of a message's content: text, None, or parts with text."""
    if isinstance(content, list):
        return sum(_bytes(part["text"]) for part in content)
    return len(content.encode("utf-8", "replace")) if content else 0
