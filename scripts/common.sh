# Functions for the other scripts: messages, platform, package sources, and data of the presets tiny and small.
# Handles --help, then sets REPOSITORY, PLATFORM, PLATFORM_REASON and VENV (absolute).

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
    PLATFORM_REASON="${PLATFORM_REASON:-set by PLATFORM}"
elif has_gpu; then
    PLATFORM=gpu PLATFORM_REASON="nvidia-smi lists a GPU"
else
    PLATFORM=cpu PLATFORM_REASON="no NVIDIA GPU found"
fi
[[ "$PLATFORM" == gpu || "$PLATFORM" == cpu ]] || die "PLATFORM=$PLATFORM: must be gpu or cpu"
REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$(absolute "${VENV:-$REPOSITORY/.venv}")"
export VENV

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or 3.12 among: ${PYTHON:-python3.11 python3.12 python3}. Install one, or set PYTHON=/path/to/python"
}

# Sets SOURCES, uv's options for the package sources of pip with interpreter $1; uv does not read pip's settings.
# Sets TORCH_ON_DISK to the source folder with a wheel of torch's CPU build, else to nothing.
find_package_sources() {
    local index link
    SOURCES=() TORCH_ON_DISK=""
    index="$(pip_setting "$1" index-url)"
    [[ -z "$index" ]] || SOURCES+=(--default-index "$index")
    for link in $(pip_setting "$1" find-links); do
        SOURCES+=(--find-links "$link")
        ! compgen -G "${link#file://}/torch-*+cpu-*.whl" >/dev/null || TORCH_ON_DISK="$link"
    done
}

pip_setting() {
    local variable="PIP_${2^^}"
    variable="${variable//-/_}"
    echo "${!variable:-$("$1" -m pip config get "global.$2" 2>/dev/null || true)}"
}

# Installs uv and the other set-up tools with pip of interpreter $1.
install_tools() {
    "$1" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/tools.txt
}

# Makes the word problems of the tiny preset in folder $1.
make_tiny_data() {
    "$VENV/bin/python" -m tiny.problems --out "$1/problems.jsonl" --count 2100 --seed 1
    "$VENV/bin/python" -m data_prep numina_math_tir --source "$1/problems.jsonl" --out-dir "$1" \
        --data-source tiny_problems --template plain --val-size 100
}

# Makes the word problems of the preset small in folder $1, each after four examples.
make_small_data() {
    "$VENV/bin/python" -m small.problems --out "$1/problems.jsonl" --count 2200 --seed 1
    "$VENV/bin/python" -m data_prep gsm8k --source "$1/problems.jsonl" --out-dir "$1" \
        --data-source small_problems --template plain --val-size 200 \
        --example "Tom has 5 cards. Tom buys 4 more. How many cards does Tom have now?" \
        $'5 + 4 = 9.\nThe answer is 9.' \
        --example "Ben has 16 books. Ben finds 7 more. How many books does Ben have now?" \
        $'16 + 7 = 23.\nThe answer is 23.' \
        --example "Lily has 9 pens. Lily sells 3 of them. How many pens does Lily have now?" \
        $'9 - 3 = 6.\nThe answer is 6.' \
        --example "Anna has 13 coins. Anna loses 8 of them. How many coins does Anna have now?" \
        $'13 - 8 = 5.\nThe answer is 5.'
}
