# SPDX-License-Identifier: Apache-2.0
"""Entry point: ``python -m recipe.treepo.main_treepo KEY=VALUE ...``, verl's ``main_ppo`` with trees; see ``--help``.

The whole configuration is checked before Ray or a model starts, and our own rules before verl is imported.
``--dry-run`` prints the keys that differ from the defaults, then stops; problems of files are only reported.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import mkstemp

from omegaconf import DictConfig

from recipe.treepo.command_line.arguments import CommandLine, read_command_line
from recipe.treepo.command_line.composition import call_with_config, without_importing_verl, without_output
from recipe.treepo.command_line.differences import dry_run_report
from recipe.treepo.command_line.help_text import help_text
from recipe.treepo.command_line.pages import TRAINING_PAGE
from recipe.treepo.command_line.program import as_called
from recipe.treepo.command_line.verl_overrides import with_known_keys
from recipe.treepo.console.capture import held
from recipe.treepo.console.leftovers import cleaned_after_kill
from recipe.treepo.settings.hub_models import hub_problems
from recipe.treepo.settings.schema import Console, load_settings
from recipe.treepo.settings.tree_rules import unused_cache_block
from recipe.treepo.settings.validate import validate
from recipe.treepo.settings.values import ConfigError, ConfigProblem
from recipe.treepo.settings.verl_keys import unread_key_problems
from recipe.treepo.settings.verl_values import foreign_names, type_problems, unregistered_names


def prepare(
    config: DictConfig,
    problems: list[ConfigProblem],
    *,
    dry_run: bool,
    known: DictConfig | None = None,
    notes: list[ConfigProblem] | None = None,
) -> None:
    """Check the recipe's rules, then verl's own.

    Args:
        problems: Problems of the command line. Their keys are not checked again: they still have the default.
        known: Defaults whose types the values must have.
        notes: Receives findings that do not stop a run; none in a dry run.

    Raises:
        ConfigError: listing all problems, those of the command line first.
    """
    settings, found = None, list[ConfigProblem]()
    types = [] if known is None else type_problems(config, known)
    if any(problem.rule_id == "verl_group" for problem in types):
        raise ConfigError(problems + types)  # all other rules read the keys of groups
    try:
        settings = validate(config, check_files=not dry_run, notes=notes)
    except ConfigError as error:
        found += error.problems
    if not dry_run:
        found += hub_problems(config)
    reported = {problem.key for problem in found}
    found += [problem for problem in types if problem.key not in reported]
    plugins = other_plugins()
    if known is not None and not plugins:  # which may read any key
        found += unread_key_problems(config, known)
    if not plugins:  # then the names are known without importing verl, which takes seconds
        found += unregistered_names(config)
    wrong = {problem.key for problem in problems}
    problems = problems + [problem for problem in found if problem.key not in wrong]
    if problems and not (plugins and foreign_names(config)):
        raise ConfigError(problems)
    if settings is None or settings.console is Console.TREEPO:
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # Ray reads it when verl imports Ray; our log keeps all lines
    from recipe.treepo.verl_adapters.run import check_with_verl, name_problems

    if plugins and (problems := problems + name_problems(config)):
        raise ConfigError(problems)
    assert settings is not None
    check_with_verl(config, settings)


def check(config: DictConfig, line: CommandLine) -> list[ConfigProblem]:
    """Check the configuration and return the notes; if there are problems, report all and exit."""
    notes: list[ConfigProblem] = []
    try:
        with redirect_stdout(sys.stderr):  # verl prints, but stdout is for the configuration
            prepare(config, line.name_problems, dry_run=line.dry_run, known=line.known, notes=notes)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    return notes


def show(config: DictConfig, *, full: bool) -> None:
    """Print the configuration, and on stderr the problems of files."""
    print(dry_run_report(config, full=full), end="")
    print_notes([*_notes_on_files(config), unused_cache_block(load_settings(config), config)])


def print_notes(notes: Iterable[ConfigProblem | None]) -> None:
    """Print findings that do not stop a run to stderr."""
    for note in notes:
        if note is not None:
            print(f"note: {note}", file=sys.stderr)


def train(config: DictConfig, early: Path | None = None) -> None:
    """Train with a checked configuration; after a failure, exit with status 1 or 130.

    Args:
        early: File with the output so far.
    """
    from recipe.treepo.verl_adapters import run

    with cleaned_after_kill():
        status = run.train(config, load_settings(config), early=early)
    if status:
        sys.exit(status)


def _notes_on_files(config: DictConfig) -> list[ConfigProblem]:
    notes: list[ConfigProblem] = []
    try:
        validate(config, notes=notes)
    except ConfigError as error:
        return error.problems + notes
    return notes


PLUGIN_ENTRY, PLUGIN_MODULE = "treepo_verl_plugin", "recipe.treepo.plugin"


def use_plugin() -> None:
    """Make verl load our plugin if the recipe is a folder of a checkout, not an installed package."""
    if not any(entry.value == PLUGIN_ENTRY for entry in entry_points(group="verl.plugins")):
        modules = os.environ.get("VERL_USE_EXTERNAL_MODULES", "")
        os.environ["VERL_USE_EXTERNAL_MODULES"] = ",".join(filter(None, [modules, PLUGIN_MODULE]))


def other_plugins() -> bool:
    """Return whether verl loads other plugins than ours, which may register names."""
    modules = set(os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")) - {"", PLUGIN_MODULE}
    return bool(modules) or any(entry.value != PLUGIN_ENTRY for entry in entry_points(group="verl.plugins"))


def temporary_file() -> Path:
    """Create an empty file for output that precedes the run's folder."""
    descriptor, path = mkstemp(prefix="treepo-", suffix=".log")
    os.close(descriptor)
    return Path(path)


def main() -> None:
    """Run with the command line's arguments."""
    line = read_command_line(sys.argv[1:])
    if line.asks_help:
        print(as_called(help_text(TRAINING_PAGE)))
        return
    if not line.for_hydra_only:
        line = with_known_keys(line)
    use_plugin()
    early, notes = None, list[ConfigProblem]()
    if not line.dry_run and not line.for_hydra_only:
        print("checking the configuration ...", file=sys.stderr)  # verl's import takes some seconds
        early = temporary_file()

    def check_and_show(config: DictConfig) -> None:
        notes.extend(check(config, line))
        if line.dry_run:
            show(config, full=line.full)

    def start(config: DictConfig) -> None:
        if line.for_hydra_only:  # several configurations, each checked at its start
            print_notes(check(config, line))
        train(config, early)

    try:
        if line.dry_run or not line.for_hydra_only:
            # First compose and check without importing verl and without Hydra's output folder.
            arguments = without_output(without_importing_verl(line.arguments))
            with held(early) if early else nullcontext():
                call_with_config(line, arguments, check_and_show)
            print_notes(notes)  # on the screen, unlike the output held back
        if not line.dry_run:
            call_with_config(line, line.arguments, start)
    finally:
        if early:
            early.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
