#!/usr/bin/env bash
# Trains a model that calls a calculator (examples/calculator_tool.py) through verl's tools, with one tree of turns per
# prompt. Branches share earlier calls. The reward function receives the calls (examples/tool_reward.py).
#
#   bash scripts/run_calculator_qwen0.5b.sh [--dry-run [--full]] [KEY=VALUE ...]
#
# Knobs (environment) and presets: bash scripts/run_treepo_qwen0.5b.sh --help
#
# Examples:
#   bash scripts/run_calculator_qwen0.5b.sh                                 one tree of turns per prompt
#   bash scripts/run_calculator_qwen0.5b.sh treepo.sampler=independent      n independent conversations per prompt
#   bash scripts/run_calculator_qwen0.5b.sh treepo.sampler=plain            verl's own tool agent
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
show_help_if_asked "$0" "$@"
CHAT=1 exec bash "$(dirname "${BASH_SOURCE[0]}")/run_treepo_qwen0.5b.sh" \
    tree=ms_swift_d6_k2 \
    actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent \
    actor_rollout_ref.rollout.multi_turn.function_tool_path=examples/calculator_tool.py \
    actor_rollout_ref.rollout.multi_turn.format=hermes \
    reward.custom_reward_function.path=examples/tool_reward.py \
    "$@"
