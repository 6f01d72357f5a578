#!/usr/bin/env bash
# Trains on conversations, with one tree of turns per prompt. A wrong answer gets a request to check it; before the last
# turn comes a request for the final answer (examples/recheck.py, docs/how_to/conversations.md).
#
#   bash scripts/run_recheck_qwen0.5b.sh [--dry-run [--full]] [KEY=VALUE ...]
#
# Knobs (environment) and presets: bash scripts/run_treepo_qwen0.5b.sh --help
#
# Examples:
#   bash scripts/run_recheck_qwen0.5b.sh                                 one tree of turns per prompt
#   bash scripts/run_recheck_qwen0.5b.sh treepo.sampler=independent      n independent conversations per prompt
#   bash scripts/run_recheck_qwen0.5b.sh tree=ms_swift_d5_k2            5 turns, 2 children per turn
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
show_help_if_asked "$0" "$@"
CHAT=1 exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    treepo.interaction.path=examples/recheck.py \
    treepo.interaction.name=Recheck \
    "$@"
