#!/usr/bin/env bash
# Measures the plan `full`: that of quick.sh with larger trees and models, and all sweeps with a plot (report.png).
# Takes an hour and a half on 2 cores.
#
#   bash scripts/bench/full.sh [--parts PART ...] [--out FOLDER] [--repetitions N]
#
# Options and knobs: bash scripts/bench/quick.sh --help. Results go to outputs/benchmarks/full.
source "$(dirname "${BASH_SOURCE[0]}")/../help.sh"
show_help_if_asked "$0" "$@"
exec bash "$(dirname "${BASH_SOURCE[0]}")/sampling.sh" full "$@"
