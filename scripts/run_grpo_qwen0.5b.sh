#!/usr/bin/env bash
# The plain partner of run_treepo_qwen0.5b.sh: verl's own sampler and GRPO, everything else the same.
# GRPO on trees is one flag away: bash scripts/run_treepo_qwen0.5b.sh algorithm.adv_estimator=grpo
set -euo pipefail
ALGORITHM=grpo exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    treepo.sampler=plain algorithm.adv_estimator=grpo "$@"
