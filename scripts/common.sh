# Sourced by the other scripts: messages, what machine this is, and the tiny preset's data.
# Sets REPOSITORY, PLATFORM, PLATFORM_REASON and VENV (absolute). Answers --help first.

source "$(dirname "${BASH_SOURCE[0]}")/help.sh"
show_help_if_asked "$0" "$@"

say() { echo "[treepo] $*"; }
die() {
    echo "[treepo] error: $*" >&2
    exit 2
}

absolute() { [[ "$1" == /* ]] && echo "$1" || echo "$PWD/$1"; }
has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

if [[ -n "${PLATFORM:-}" ]]; then
    PLATFORM_REASON="${PLATFORM_REASON:-as told by PLATFORM}"
elif has_gpu; then
    PLATFORM=gpu PLATFORM_REASON="nvidia-smi lists a GPU"
else
    PLATFORM=cpu PLATFORM_REASON="no NVIDIA GPU found"
fi
[[ "$PLATFORM" == gpu || "$PLATFORM" == cpu ]] || die "PLATFORM=$PLATFORM: must be gpu or cpu"
REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$(absolute "${VENV:-$REPOSITORY/.venv}")"
export VENV

# Makes the word problems of the tiny preset in folder $1.
make_tiny_data() {
    "$VENV/bin/python" -m data_prep.tiny_problems --out "$1/problems.jsonl" --count 2100 --seed 1
    "$VENV/bin/python" -m data_prep.numina_math --source "$1/problems.jsonl" --out-dir "$1" \
        --data-source tiny_problems --template plain --val-size 100
}
