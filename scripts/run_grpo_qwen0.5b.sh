#!/usr/bin/env bash
# Trains the baseline without trees, verl's own sampler and GRPO; all else equals scripts/run_treepo_qwen0.5b.sh.
#
#   bash scripts/run_grpo_qwen0.5b.sh [--dry-run [--full]] [KEY=VALUE ...]
#
# Knobs (environment) and presets: bash scripts/run_treepo_qwen0.5b.sh --help
#
# Examples:
#   bash scripts/run_grpo_qwen0.5b.sh                                        the baseline, from set-up to training
#   bash scripts/run_grpo_qwen0.5b.sh trainer.total_training_steps=100       a longer run
#   bash scripts/run_treepo_qwen0.5b.sh algorithm.adv_estimator=grpo         GRPO on trees instead
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
show_help_if_asked "$0" "$@"
ALGORITHM=grpo exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    treepo.sampler=plain algorithm.adv_estimator=grpo "$@"
