# SPDX-License-Identifier: Apache-2.0
"""The plugin that verl loads in every process."""

import os
import subprocess
import sys

from helpers.paths import ROOT

CODE = """
import logging, verl, recipe.treepo.plugin
for level in (logging.WARNING, logging.ERROR):
    logging.root.setLevel(level)
    for handler in logging.root.handlers:
        handler.setLevel(level)
    logging.getLogger("recipe.treepo.any").warning("seen at %s", level)
logging.getLogger("recipe.treepo.any").info("not seen")
"""


def test_warnings_are_printed_once_whatever_the_level_of_the_root_logger():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    lines = [line.rpartition(":")[2] for line in result.stderr.splitlines() if "seen" in line]
    assert lines == ["seen at 30", "seen at 40"]
