#!/usr/bin/env bash
# What quick.sh and full.sh share: sets everything up, makes the tiny model and its data, and measures plan $1.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
OUTPUTS="$(absolute "${OUTPUTS:-$REPOSITORY/outputs}")"
cd "$REPOSITORY"
plan="$1"
shift

bash scripts/setup.sh
"$VENV/bin/python" scripts/make_tiny_model.py --out "$OUTPUTS/tiny_model"
make_tiny_data "$OUTPUTS/data/tiny"
exec "$VENV/bin/python" -m benchmarks.sampling_speed "$plan" \
    --platform "$PLATFORM" --tiny-model "$OUTPUTS/tiny_model" --data "$OUTPUTS/data/tiny/val.parquet" \
    --out "$OUTPUTS/benchmarks/$plan" "$@"
