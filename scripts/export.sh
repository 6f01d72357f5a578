#!/usr/bin/env bash
# Makes a Hugging Face folder of a run's checkpoint: weights in bfloat16, configuration and tokenizer.
#
#   bash scripts/export.sh RUN [STEP]
#
# RUN is the name of a run in OUTPUTS/runs, or a folder of a run; STEP is by default the last complete checkpoint. The
# last line is the new folder, RUN/model_step_STEP.
#
# Knobs (environment): OUTPUTS (default outputs/ in the repository); PLATFORM, VENV, PYTHON: bash scripts/setup.sh --help
#
# Examples:
#   bash scripts/export.sh first
#   RUN=first bash scripts/evaluate_qwen0.5b.sh      exports, then evaluates
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($# == 1 || $# == 2)) || die "RUN [STEP] expected; see bash scripts/export.sh --help"
run="$1"
[[ -d "$run" ]] || run="$(absolute "${OUTPUTS:-$REPOSITORY/outputs}")/runs/$1"
[[ -d "$run" ]] || die "RUN=$1: there is no such folder, and no such run ($run)"
run="$(absolute "$run")"
cd "$REPOSITORY"
bash scripts/setup.sh >&2
exec "$VENV/bin/python" -m recipe.treepo.main_export "$run" "${@:2}"
