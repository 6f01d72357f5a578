#!/usr/bin/env bash
# Measures samplers against each other. Sets everything up, makes the files that the plan needs, then runs the plan.
#
#   bash scripts/bench/sampling.sh PLAN [--parts PART ...] [--out FOLDER] [--repetitions N]
#
# PLAN is quick, full (see scripts/bench/quick.sh, full.sh) or gpu (for a machine with a GPU).
# Options and knobs: bash scripts/bench/quick.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
OUTPUTS="$(absolute "${OUTPUTS:-$REPOSITORY/outputs}")"
cd "$REPOSITORY"
plan="$1"
shift

bash scripts/setup.sh
files=(--tiny-model tiny/model)
if [ "$plan" = full ]; then
    files+=(--data "$OUTPUTS/data/tiny/val.parquet")
    make_tiny_data "$OUTPUTS/data/tiny"
fi
exec "$VENV/bin/python" -m benchmarks.sampling_speed "$plan" \
    --platform "$PLATFORM" "${files[@]}" --out "$OUTPUTS/benchmarks/$plan" "$@"
