# SPDX-License-Identifier: Apache-2.0
"""Error of the data commands, reported to the user."""

from collections.abc import Sequence


class PrepError(Exception):
    """Wrong options or source; one line per problem, with key, value, rule and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)
