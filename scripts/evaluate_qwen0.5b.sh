#!/usr/bin/env bash
# Evaluates the model of run_treepo_qwen0.5b.sh without training: plain samples against trees on the held-out problems.
#
#   bash scripts/evaluate_qwen0.5b.sh [--dry-run] [KEY=VALUE ...]         e.g. evaluation.n=16, evaluation=scaling
#
# Same presets and knobs (MODEL_PATH: another model; VAL_FILE: other problems, or data.val_files=[FILE,FILE]). It says
# first what it chose. Samples and report go to outputs/evaluations/EXPERIMENT (default: the preset's name); what was
# interrupted there goes on.
set -euo pipefail
TASK=evaluate exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    actor_rollout_ref.rollout.val_kwargs.n=8 actor_rollout_ref.rollout.val_kwargs.temperature=1.0 "$@"
