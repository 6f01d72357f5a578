#!/usr/bin/env bash
# Measures what trees cost in engine calls, tokens and time against plain samples, segment loops and trees in lock step:
# sets everything up, makes the tiny model, and runs the plan `quick` in a few minutes.
#
#   bash scripts/bench/quick.sh [--parts PART ...] [--out FOLDER] [--repetitions N]
#
# Results (results.json, report.md, report.png) go to outputs/benchmarks/quick. Two result files are compared by
#   python -m benchmarks.sampling.compare OLD.json NEW.json
# Knobs (environment): OUTPUTS, PLATFORM, VENV, PYTHON as for scripts/run_treepo_qwen0.5b.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
OUTPUTS="$(absolute "${OUTPUTS:-$REPOSITORY/outputs}")"
cd "$REPOSITORY"
PLAN="${PLAN:-quick}"

bash scripts/setup.sh
"$VENV/bin/python" scripts/make_tiny_model.py --out "$OUTPUTS/tiny_model"
make_tiny_data "$OUTPUTS/data/tiny"
exec "$VENV/bin/python" -m benchmarks.sampling_speed "$PLAN" \
    --platform "$PLATFORM" --tiny-model "$OUTPUTS/tiny_model" --data "$OUTPUTS/data/tiny/val.parquet" \
    --out "$OUTPUTS/benchmarks/$PLAN" "$@"
