#!/usr/bin/env bash
# Sets up, checks style and types, and runs the tests.
#
#   bash scripts/run_tests.sh              unit tests, then end-to-end tests (real training runs with vLLM)
#   bash scripts/run_tests.sh --unit       tests without an engine only: about five minutes on 2 cores
#   bash scripts/run_tests.sh --slow       also the tests marked slow, and property tests with many new examples
#   bash scripts/run_tests.sh ARGS...      ARGS are arguments of pytest, which then runs in one process
#
# --unit and --slow can be combined and followed by ARGS. The 10 slowest tests and pytest's summary come last.
# Unit tests run in parallel. Tests with an engine run one after the other, and only if the unit tests pass.
#
# Knobs (environment):
#   TEST_WORKERS  processes that run unit tests; default: the number of cores, at most 4
#   PLATFORM, VENV, PYTHON  see scripts/setup.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPOSITORY"

unit=0 slow=0 options=()
while [[ "${1:-}" == --unit || "${1:-}" == --slow ]]; do
    [[ "$1" == --unit ]] && unit=1 || slow=1
    shift
done
((!slow)) || options+=(--hypothesis-profile long)

# Runs the tests with markers $1, without slow ones unless --slow is set. Further arguments are those of pytest.
run_pytest() {
    local markers="$1"
    ((slow)) || markers="${markers:+$markers and }not slow"
    "$VENV/bin/python" -m pytest -m "$markers" "${options[@]}" "${@:2}"
}

SETUP_TEST=1 bash scripts/setup.sh
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
if (($#)); then
    ((unit)) && markers="not engine" || markers=""
    run_pytest "$markers" "$@"
else
    cores="$(nproc)"
    run_pytest "not engine" --numprocesses "${TEST_WORKERS:-$((cores > 4 ? 4 : cores))}" --dist worksteal
    ((unit)) || run_pytest engine
fi
