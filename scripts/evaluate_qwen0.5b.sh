#!/usr/bin/env bash
# Evaluates a model without training: plain samples against trees on held-out problems. Sets everything up and makes the
# data of the preset first.
#
#   bash scripts/evaluate_qwen0.5b.sh [--dry-run [--full]] [KEY=VALUE ...]
#
# Samples and report go to outputs/evaluations/EXPERIMENT (default: the preset's name). The same command resumes an
# interrupted evaluation.
#
# Knobs (environment) and presets: bash scripts/run_treepo_qwen0.5b.sh --help. The most useful here:
#   RUN         name of a training run in OUTPUTS/runs, or its folder: exports its last checkpoint and evaluates it
#   STEP        step of the checkpoint of RUN
#   MODEL_PATH  folder or hub name of a model, instead of RUN
#   VAL_FILE    parquet file with the problems; several: data.val_files=[FILE,FILE]
# Keys: python -m recipe.treepo.main_eval --help
#
# Examples:
#   bash scripts/evaluate_qwen0.5b.sh                            8 samples per problem
#   bash scripts/evaluate_qwen0.5b.sh evaluation=scaling         accuracy against decoded tokens
#   RUN=first bash scripts/evaluate_qwen0.5b.sh                  the model that was trained
#   MODEL_PATH=Qwen/Qwen2.5-0.5B bash scripts/evaluate_qwen0.5b.sh evaluation.n=16
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
show_help_if_asked "$0" "$@"
TASK=evaluate exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    actor_rollout_ref.rollout.val_kwargs.n=8 actor_rollout_ref.rollout.val_kwargs.temperature=1.0 "$@"
