#!/usr/bin/env bash
# Trains with TreePO: verl with tree rollouts and tree advantages. Sets everything up and makes the data first.
#
#   bash scripts/run_treepo_qwen0.5b.sh [--dry-run [--full]] [KEY=VALUE ...]
#
# KEY is any key of verl or treepo; python -m recipe.treepo.main_treepo --help lists the keys of treepo. --dry-run only
# checks the configuration and prints the keys that differ from the defaults (--full: all keys).
#
# Preset gpu:  Qwen/Qwen2.5-0.5B on 1,000 problems of NuminaMath-TIR, batch 8, n 8. One CUDA GPU of 24 GB or more.
# Preset gpu_thinking: the same with Qwen/Qwen3-0.6B, whose responses begin with thoughts, up to 4096 tokens.
# Preset small: SmolLM2-135M-Instruct (Apache-2.0) on generated arithmetic in plain English. Two CPU cores and 16 GB of
#              memory, or a GPU. The model comes from the hub, else from a Python package (small/README.md).
# Preset tiny: the embedded model of 0.84 M parameters (tiny/model) on word problems, with packed training. Two CPU
#              cores, 10 GB of memory, 5 to 10 minutes the first time.
#
# Knobs (environment); verl or treepo overrides on the command line have priority:
#   PRESET      gpu, gpu_thinking, small or tiny; default: gpu if there is a GPU, else tiny
#   CHAT        1 for the preset for conversations, with the second embedded model (tiny/chat_model): see
#               run_recheck_qwen0.5b.sh
#   MODEL_PATH  folder or hub name of a Hugging Face model instead of the preset's
#   TRAIN_FILE  parquet file with training prompts in verl's schema; VAL_FILE likewise for validation
#   OUTPUTS     folder of data and runs; default outputs/ in the repository
#   EXPERIMENT  name of the run; default: a new name with the date. The name of an earlier run resumes it from its
#               last checkpoint
#   RESTARTS    number of new starts, each from the last checkpoint, after a process died or stood still; default 0
#   SEED        seed of the order of the data and of sampling; default 0
#   PLATFORM, VENV, PYTHON: see bash scripts/setup.sh --help
#
# Examples:
#   bash scripts/run_treepo_qwen0.5b.sh                                      the preset for this machine
#   bash scripts/run_treepo_qwen0.5b.sh tree=ms_swift_d5_k3 algorithm.adv_estimator=grpo
#   EXPERIMENT=first MODEL_PATH=~/model TRAIN_FILE=train.parquet VAL_FILE=val.parquet bash scripts/run_treepo_qwen0.5b.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Paths are relative to the caller's folder; verl receives absolute ones.
OUTPUTS="$(absolute "${OUTPUTS:-$REPOSITORY/outputs}")"
for name in TRAIN_FILE VAL_FILE; do
    file="${!name:-}"
    [[ -n "$file" && "$file" != *://* ]] || continue
    [[ -f "$file" ]] || die "$name=$file: there is no such file"
    printf -v "$name" %s "$(absolute "$file")"
done
[[ ! -d "${MODEL_PATH:-}" ]] || MODEL_PATH="$(absolute "$MODEL_PATH")"
[[ ! -d "${RUN:-}" ]] || RUN="$(absolute "$RUN")"
cd "$REPOSITORY"
RESTARTS="${RESTARTS:-0}"
[[ "$RESTARTS" =~ ^[0-9]+$ ]] || die "RESTARTS=$RESTARTS: must be a whole number of at least 0"

TASK="${TASK:-train}" # or evaluate: scripts/evaluate_qwen0.5b.sh
MACHINE="$PLATFORM" # platform of the environment; a dry run may compose for another
MACHINE_REASON="$PLATFORM_REASON"
DRY_RUN=""
for argument in "$@"; do
    [[ "$argument" != --dry-run ]] || DRY_RUN=1
done
if [[ -z "${PRESET:-}" ]]; then
    PRESET=tiny
    [[ "$PLATFORM" != gpu ]] || PRESET=gpu
fi
MODEL_TO_FETCH=""
case "$PRESET" in
    gpu | gpu_thinking)
        model=Qwen/Qwen2.5-0.5B
        [[ "$PRESET" == gpu ]] || model=Qwen/Qwen3-0.6B
        MODEL_PATH="${MODEL_PATH:-$model}"
        DATA="$OUTPUTS/data/numina_math_tir"
        if [[ "$PLATFORM" == cpu && -z "$DRY_RUN" ]]; then
            die "PRESET=$PRESET: $PLATFORM_REASON. Use PRESET=tiny, or add --dry-run to see the configuration"
        elif [[ "$PLATFORM" == cpu ]]; then
            PLATFORM=gpu PLATFORM_REASON="--dry-run, not on this machine: $PLATFORM_REASON"
        fi
        ;;
    tiny)
        MODEL_PATH="${MODEL_PATH:-$REPOSITORY/tiny/${CHAT:+chat_}model}"
        DATA="$OUTPUTS/data/tiny"
        ;;
    small)
        [[ -n "${MODEL_PATH:-}" ]] || MODEL_TO_FETCH="$OUTPUTS/models/SmolLM2-135M-Instruct"
        MODEL_PATH="${MODEL_PATH:-$MODEL_TO_FETCH}"
        DATA="$OUTPUTS/data/small"
        ;;
    *) die "PRESET=$PRESET: must be gpu, gpu_thinking, small or tiny" ;;
esac
[[ -z "${CHAT:-}" || "$PRESET" =~ ^(gpu|tiny)$ ]] ||
    die "PRESET=$PRESET: has no variant for conversations. Use PRESET=tiny or gpu"
if [[ "$TASK" == evaluate ]]; then
    EXPERIMENT="${EXPERIMENT:-${RUN:+$(basename "$RUN")_}$PRESET}"
    FOLDER="$OUTPUTS/evaluations/$EXPERIMENT"
else
    RUN="" # a knob of evaluations
    EXPERIMENT="${EXPERIMENT:-${ALGORITHM:-treepo}_${PRESET}_$(date +%Y%m%d-%H%M%S)}"
    FOLDER="$OUTPUTS/runs/$EXPERIMENT"
fi

PLATFORM="$MACHINE" PLATFORM_REASON="$MACHINE_REASON" bash scripts/setup.sh
python="$VENV/bin/python"
if [[ -n "$DRY_RUN" ]]; then
    : # needs no model
elif [[ -n "${RUN:-}" ]]; then
    MODEL_PATH="$(bash scripts/export.sh "$RUN" ${STEP:+"$STEP"})"
elif [[ -n "$MODEL_TO_FETCH" ]]; then
    say "model:    fetching SmolLM2-135M-Instruct, unless it is there"
    "$python" -m small.model --out "$MODEL_TO_FETCH"
fi

say "=================================================================="
say "preset:   $PRESET    platform: $PLATFORM ($PLATFORM_REASON)"
if [[ "$PRESET" == tiny ]]; then
    say "          An embedded model and word problems, to show that the pipeline works and learns."
    say "          For Qwen2.5-0.5B on NuminaMath-TIR: PRESET=gpu on a machine with a GPU."
fi
say "model:    $MODEL_PATH"
[[ "$TASK" == evaluate ]] || say "training: ${TRAIN_FILE:-$DATA/train.parquet}"
say "held out: ${VAL_FILE:-$DATA/val.parquet}"
say "run:      $FOLDER"
say "=================================================================="

prepare_data() {
    if [[ "$PRESET" == tiny ]]; then
        make_tiny_data "$DATA"
    elif [[ "$PRESET" == small ]]; then
        make_small_data "$DATA"
    else
        "$python" -m data_prep numina_math_tir --out-dir "$DATA" --subset-size 1000 --val-size 100 \
            --template boxed --tokenizer "$MODEL_PATH" --max-prompt-tokens 512
    fi
}

run=(
    "platform=$PLATFORM" "preset=$PRESET${CHAT:+_chat}"
    "actor_rollout_ref.model.path=$MODEL_PATH"
    "data.val_files=${VAL_FILE:-$DATA/val.parquet}"
)
if [[ "$TASK" == evaluate ]]; then
    run=("$python" -m recipe.treepo.main_eval "${run[@]}"
        "evaluation.out_dir=$FOLDER"
        "evaluation.seed=${SEED:-0}"
    )
else
    export TENSORBOARD_DIR="${TENSORBOARD_DIR:-$FOLDER/tensorboard}"
    run=("$python" -m recipe.treepo.main_treepo "${run[@]}"
        "data.train_files=${TRAIN_FILE:-$DATA/train.parquet}"
        "data.seed=${SEED:-0}"
        "actor_rollout_ref.rollout.seed=${SEED:-0}"
        "trainer.experiment_name=$EXPERIMENT"
        "trainer.default_local_dir=$FOLDER/checkpoints"
        "treepo.dump.dir=$FOLDER/trees"
        "hydra.run.dir=$FOLDER/hydra"
    )
    # Trees of these presets share most tokens, and the attention of the CPU platform supports packing.
    [[ ! "$PRESET${CHAT:-} $PLATFORM" =~ ^(tiny|small)\ cpu$ ]] || run+=("treepo.packed_training=true")
fi

if [[ -z "$DRY_RUN" ]]; then
    needed=("${VAL_FILE:-}")
    [[ "$TASK" == evaluate ]] || needed+=("${TRAIN_FILE:-}")
    for file in "${needed[@]}"; do
        if [[ -z "$file" ]]; then
            prepare_data
            break
        fi
    done
fi

[[ "$RESTARTS" == 0 || -n "$DRY_RUN" ]] || run=("$python" scripts/supervise.py "$RESTARTS" "${run[@]}")
exec "${run[@]}" "$@"
