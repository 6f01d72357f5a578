# SPDX-License-Identifier: Apache-2.0
"""verl's reports of failed prompts, shortened: an engine that fails usually fails for all prompts of a step.

``AgentLoopWorkerTQ._run_prompt`` logs each failed prompt with its traceback and has no hook. A filter
of its logger keeps the traceback of the first report of each kind.
"""

import logging
from collections import Counter

from recipe.treepo.search.failures import SearchError, kind_of


class RepeatedFailures(logging.Filter):
    """Filter that turns repeated reports of prompts without a trajectory into one line with a count.

    The kind of a report is that of its cause. Reports of other errors stay as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record if it repeats an earlier one; keep all records."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SearchError):
            kind = kind_of(error.__cause__ or error)
            self._counts[kind] += 1
            if (count := self._counts[kind]) > 1:
                record.msg = f"{record.getMessage()}: no trajectory, as in an earlier report ({kind}, {count} prompts)"
                record.args, record.exc_info, record.exc_text = (), None, None
        return True


_REPEATED = RepeatedFailures()  # one per process: adding it again changes nothing


def shorten_reports(logger_name: str) -> None:
    """Shorten the reports of a logger."""
    logging.getLogger(logger_name).addFilter(_REPEATED)
