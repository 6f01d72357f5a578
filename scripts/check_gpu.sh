#!/usr/bin/env bash
# Checks training on one CUDA GPU of 24 GB or more, with models of random weights, so without a hub.
#
#   bash scripts/check_gpu.sh [training | engine] [OPTION ...]
#
#   training  10 steps of plain GRPO, of trees, and of trees with packed training (FlexAttention), preset gpu: speed,
#             tokens and peak memory of each. Sets up first. OPTION: python -m benchmarks.step_speed --help
#   engine    packed training against verl's engine: log-probs and gradients must agree in float32; speed and peak
#             memory in bfloat16. Needs torch, transformers and verl, no vLLM; installs nothing. OPTION: python -m
#             benchmarks.packed_speed --help
#
# Without an argument: both, about ten minutes after the set-up. Tables and numbers: outputs/gpu.
#
# Knobs (environment):
#   PYTHON    interpreter of `engine`; default: that of the virtual environment, else python3
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPOSITORY"
OUT="$REPOSITORY/outputs/gpu"

training() {
    [[ "$PLATFORM" == gpu ]] || die "$PLATFORM_REASON, and this part needs one"
    PLATFORM="$PLATFORM" bash scripts/setup.sh
    make_tiny_data "$OUT/data"
    TRAIN_FILE="$OUT/data/train.parquet" VAL_FILE="$OUT/data/val.parquet" \
        "$VENV/bin/python" -m benchmarks.step_speed --preset gpu --attention flex_attention \
        --arms "plain samples" trees "trees, packed" --steps 10 --rounds 1 \
        --prompts 8 --n 16 --depth 4 --segment 128 --tokens 16384 --hidden 896 --layers 24 \
        --report "$OUT/training.md" "$@"
}

engine() {
    local python="${PYTHON:-$VENV/bin/python}"
    [[ -n "${PYTHON:-}" || -x "$python" ]] || python=python3
    local size=(--attention flex_attention --hidden 896 --layers 24 --vocabulary 151936 --checkpointing)
    "$python" -m benchmarks.packed_speed "${size[@]}" --dtype fp32 --limit 1e-3 \
        --cases "tree, n 8" --prompts 1 --tokens 4096 --repetitions 1 --report "$OUT/engine_float32.md" "$@"
    "$python" -m benchmarks.packed_speed "${size[@]}" --dtype bf16 \
        --cases "tree, n 16" "plain samples, n 8" "long tree, n 8" --prompts 4 --prompt-length 512 --tokens 16384 \
        --report "$OUT/engine_bfloat16.md" "$@"
}

case "${1:-}" in
    training | engine) "$@" ;;
    "")
        engine # `&&` here would let it go on after a difference
        training
        ;;
    *) die "$1: must be training or engine" ;;
esac
