# SPDX-License-Identifier: Apache-2.0
"""Entry point: ``python -m recipe.treepo.main_export RUN [STEP]`` makes a Hugging Face folder of a run's checkpoint.

RUN is the folder of a run; STEP is by default that of the last complete checkpoint. The last line is the new folder.
"""

import argparse
import sys
from pathlib import Path

from recipe.treepo.command_line.program import as_called
from recipe.treepo.main_treepo import use_plugin


def main() -> int:
    """Export and return the exit status."""
    parser = argparse.ArgumentParser(
        description=as_called(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("step", type=int, nargs="?", metavar="STEP")
    options = parser.parse_args()
    use_plugin()
    from recipe.treepo.verl_adapters.export import ExportError, export

    try:
        folder = export(options.run, options.step)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
