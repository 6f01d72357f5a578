# SPDX-License-Identifier: Apache-2.0
"""Stopping rule of your own: a path ends at a word.

    python -m recipe.treepo.main_treepo ... \\
        treepo.stopping_rules.custom.path=examples/stop_at_word.py treepo.stopping_rules.custom.name=StopAtWord \\
        +treepo.stopping_rules.custom.options.word=roughly
"""

from recipe.treepo.policies import PathView, PolicyContext


class StopAtWord:
    """Rule that ends paths whose response has a word, at the next boundary."""

    def __init__(self, word: str) -> None:
        """Take the word."""
        self._word = word

    def ends(self, path: PathView, context: PolicyContext) -> bool:
        """Return whether the response has the word."""
        return self._word in path.text.split()
