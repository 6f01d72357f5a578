#!/usr/bin/env bash
# Trains on conversations: a wrong answer is asked to be checked again, and before the last turn for the final answer
# (examples/recheck.py); one tree of turns per prompt, as in docs/reference_table/.
#
#   bash scripts/run_recheck_qwen0.5b.sh [--dry-run] [VERL_KEY=VALUE ...]
#   bash scripts/run_recheck_qwen0.5b.sh treepo.sampler=independent      the same with n independent conversations
#   bash scripts/run_recheck_qwen0.5b.sh tree=reference_d5_k2            5 turns, 2 children of a turn
#
# Knobs: those of scripts/run_treepo_qwen0.5b.sh.
set -euo pipefail
CHAT=1 exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    treepo.interaction.path=examples/recheck.py \
    treepo.interaction.name=Recheck \
    "$@"
