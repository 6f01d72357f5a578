#!/usr/bin/env bash
# Measures what trees cost in engine calls, tokens and time against plain samples, segment loops and trees in lock step:
# sets everything up, and runs the plan `quick` in less than five minutes.
#
#   bash scripts/bench/quick.sh [--parts PART ...] [--out FOLDER] [--repetitions N]
#
# Results (results.json, report.md) go to outputs/benchmarks/quick; a relative FOLDER is one in the repository. Two
# result files are compared by
#   python -m benchmarks.sampling.compare OLD.json NEW.json
# Knobs (environment): OUTPUTS, PLATFORM, VENV, PYTHON as for scripts/run_treepo_qwen0.5b.sh
exec bash "$(dirname "${BASH_SOURCE[0]}")/sampling.sh" quick "$@"
