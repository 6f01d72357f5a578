#!/usr/bin/env bash
# Sets up, checks the style and runs the tests.
#
#   bash scripts/run_tests.sh              unit tests and end-to-end tests (real training runs with vLLM)
#   bash scripts/run_tests.sh --unit       only the tests that start no engine: two to four minutes on 2 cores
#   bash scripts/run_tests.sh --slow       also the tests marked slow, and property tests with many new examples
#   bash scripts/run_tests.sh ARGS...      ARGS go to pytest; where they name tests, those run in one process
#
# --unit and --slow may be combined and followed by ARGS. The 10 slowest tests and pytest's summary come last.
#
# Knobs (environment):
#   TEST_WORKERS  processes that run tests; default: the number of cores, at least 2 and at most 4. One of them runs
#                 all tests that start an engine, one after the other, while the others run unit tests.
#   PLATFORM, VENV, PYTHON  see scripts/setup.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPOSITORY"

without_slow="not slow" without_engine="" options=()
while [[ "${1:-}" == --unit || "${1:-}" == --slow ]]; do
    if [[ "$1" == --unit ]]; then
        without_engine="not engine"
    else
        without_slow="" options+=(--hypothesis-profile long)
    fi
    shift
done
markers="$without_slow${without_slow:+${without_engine:+ and }}$without_engine"
named=0
for argument; do [[ "$argument" == -* ]] || named=1; done
if ((!named)); then
    cores="$(nproc)"
    workers="${TEST_WORKERS:-$((cores < 2 ? 2 : cores > 4 ? 4 : cores))}"
    # The engine's tests are one group, and so are those of each file (tests/conftest.py).
    options+=(--numprocesses "$workers" --dist loadgroup)
fi

SETUP_TEST=1 bash scripts/setup.sh
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/python" -m pytest -m "$markers" "${options[@]}" "$@"
