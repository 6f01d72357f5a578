#!/usr/bin/env bash
# Trains a model that may call a calculator (examples/calculator_tool.py) through verl's tools; one tree of turns per
# prompt, in which branches share the calls before them. The reward sees the calls (examples/tool_reward.py).
#
#   bash scripts/run_calculator_qwen0.5b.sh [--dry-run] [VERL_KEY=VALUE ...]
#   bash scripts/run_calculator_qwen0.5b.sh treepo.sampler=independent      the same with n independent conversations
#   bash scripts/run_calculator_qwen0.5b.sh treepo.sampler=plain            the same with verl's own tool agent
#
# Knobs: those of scripts/run_treepo_qwen0.5b.sh.
set -euo pipefail
CHAT=1 exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    tree=reference_d6_k2 \
    actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent \
    actor_rollout_ref.rollout.multi_turn.function_tool_path=examples/calculator_tool.py \
    actor_rollout_ref.rollout.multi_turn.format=hermes \
    reward.custom_reward_function.path=examples/tool_reward.py \
    "$@"
