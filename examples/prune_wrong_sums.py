# SPDX-License-Identifier: Apache-2.0
"""Score of your own: the share of right calculations so far; paths below a limit are pruned.

    python -m recipe.treepo.main_treepo ... \\
        treepo.score.custom.path=examples/prune_wrong_sums.py treepo.score.custom.name=RightSums \\
        treepo.score.prune_below=0.5
"""

import re
from operator import add, mul, sub

from recipe.treepo.policies import PathView, PolicyContext

# Not a part of a longer sum or of a decimal. A result at the end of the text may lack digits.
SUM = re.compile(r"(?<![-+*/] )(?<![-.,\d])(\d{1,6}) ([-+*]) (\d{1,6}) = (\d{1,12})(?![.,]?\d)(?=.)", re.DOTALL)
OPERATIONS = {"+": add, "-": sub, "*": mul}


class RightSums:
    """Share of the calculations a + b = c in a response that are right; 1 without any."""

    async def score(self, path: PathView, context: PolicyContext) -> float:
        """Return the share. A score may also await a reward model, or call a verifier in a thread."""
        found = SUM.findall(path.text)
        right = sum(OPERATIONS[sign](int(left), int(other)) == int(result) for left, sign, other, result in found)
        return right / len(found) if found else 1.0
