#!/usr/bin/env bash
# Like quick.sh with the plan `full`: larger trees and models, and all sweeps with a plot (report.png). Takes an hour
# and a half on 2 cores.
#
#   bash scripts/bench/full.sh [--parts PART ...] [--out FOLDER] [--repetitions N]
exec bash "$(dirname "${BASH_SOURCE[0]}")/sampling.sh" full "$@"
