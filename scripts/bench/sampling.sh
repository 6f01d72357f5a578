#!/usr/bin/env bash
# Shared by quick.sh and full.sh: sets everything up, makes the tiny preset's data for the plan that needs them, and
# measures the plan $1 (plan gpu: for a machine with a GPU).
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
