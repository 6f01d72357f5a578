#!/usr/bin/env bash
# Sets up and runs the lint, the unit tests and the end-to-end test (a real training run with vLLM).
#
#   bash scripts/run_tests.sh              everything but the tests marked slow
#   bash scripts/run_tests.sh --slow       those, too
#   bash scripts/run_tests.sh ARGS...      ARGS go to pytest
#
# Knobs (environment): OUTPUTS as for scripts/run_treepo_qwen0.5b.sh; PLATFORM, VENV, PYTHON as for scripts/setup.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPOSITORY"

SETUP_TEST=1 bash scripts/setup.sh
markers="not slow"
if [[ "${1:-}" == --slow ]]; then
    markers=""
    shift
fi
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/python" -m pytest -m "$markers" "$@"
