#!/usr/bin/env bash
# Measures engine calls, tokens and time of plain samples, segment loops, trees in lock step and trees. Sets everything
# up, then runs the plan `quick` in less than five minutes.
#
#   bash scripts/bench/quick.sh [--parts PART ...] [--out FOLDER] [--repetitions N]
#
#   --parts        parts of the plan, of samplers, ends; default all
#   --out          folder for results.json and report.md; default outputs/benchmarks/quick; relative to the repository
#   --repetitions  measurements of each case; default 3
#
# Knobs (environment): OUTPUTS, PLATFORM, VENV, PYTHON as for scripts/run_treepo_qwen0.5b.sh
#
# Examples:
#   bash scripts/bench/quick.sh
#   bash scripts/bench/quick.sh --parts ends --out /tmp/before
#   python -m benchmarks.sampling_compare OLD.json NEW.json       compare two results
source "$(dirname "${BASH_SOURCE[0]}")/../help.sh"
show_help_if_asked "$0" "$@"
exec bash "$(dirname "${BASH_SOURCE[0]}")/sampling.sh" quick "$@"
