#!/usr/bin/env bash
# What quick.sh and full.sh share: sets everything up, makes the tiny model and its data where the plan $1 has them, and
# measures the plan (plan gpu: for a machine with a GPU).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
OUTPUTS="$(absolute "${OUTPUTS:-$REPOSITORY/outputs}")"
cd "$REPOSITORY"
plan="$1"
shift

bash scripts/setup.sh
if [ "$plan" = full ]; then
    files=(--tiny-model "$OUTPUTS/tiny_model" --data "$OUTPUTS/data/tiny/val.parquet")
    "$VENV/bin/python" scripts/make_tiny_model.py --out "$OUTPUTS/tiny_model"
    make_tiny_data "$OUTPUTS/data/tiny"
else
    # the other plans need the tokenizer alone, which does not take minutes
    files=(--tiny-model "$OUTPUTS/tiny_model_random")
    "$VENV/bin/python" scripts/make_tiny_model.py --random-weights --out "$OUTPUTS/tiny_model_random"
fi
exec "$VENV/bin/python" -m benchmarks.sampling_speed "$plan" \
    --platform "$PLATFORM" "${files[@]}" --out "$OUTPUTS/benchmarks/$plan" "$@"
