# SPDX-License-Identifier: Apache-2.0
"""Prepare NuminaMath-TIR: `python -m data_prep.numina_math` is short for `python -m data_prep numina_math_tir`.

Any file whose rows have `problem` and a `solution` with a boxed answer will do as --source.
"""

import sys
from collections.abc import Sequence

from data_prep.__main__ import main as prepare_sets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return prepare_sets(["numina_math_tir", *given], prog="python -m data_prep.numina_math")


if __name__ == "__main__":
    sys.exit(main())
