#!/usr/bin/env bash
# Makes the virtual environment and installs everything the recipe needs. Quick when nothing changed.
#
#   bash scripts/setup.sh
#   PLATFORM=cpu VENV=/tmp/venv bash scripts/setup.sh
#
# Knobs (environment):
#   PLATFORM  gpu or cpu; default: gpu where `nvidia-smi -L` lists a GPU, else cpu
#   VENV      folder of the virtual environment; default .venv in the repository
#   PYTHON    interpreter to make it with, 3.11 or 3.12; default python3.11, else python3.12, else python3
#   SETUP_TEST=1  also installs requirements-test.txt
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPOSITORY"

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or 3.12 among: ${PYTHON:-python3.11 python3.12 python3}. Install one, or name it: PYTHON=/path/to/python"
}

# Where pip has been told to find packages, uv is told too (uv does not read pip's settings).
pip_setting() {
    local variable="PIP_${1^^}"
    variable="${variable//-/_}"
    echo "${!variable:-$("$VENV/bin/python" -m pip config get "global.$1" 2>/dev/null || true)}"
}

install_requirements() {
    local options=(--python "$VENV/bin/python") link index
    index="$(pip_setting index-url)"
    [[ -z "$index" ]] || options+=(--default-index "$index")
    local cpu_torch_on_disk=""
    for link in $(pip_setting find-links); do
        options+=(--find-links "$link")
        compgen -G "${link#file://}/torch-*+cpu-*.whl" >/dev/null && cpu_torch_on_disk="$link"
    done
    if [[ "$PLATFORM" == cpu ]]; then
        options+=(--overrides requirements-cpu-overrides.txt -r requirements-cpu.txt)
        if [[ -n "$cpu_torch_on_disk" ]]; then
            say "torch's CPU build: from a wheel in $cpu_torch_on_disk"
        else
            say "torch's CPU build: from PyTorch's CPU index"
            options+=(--torch-backend cpu)
        fi
    else
        options+=(-r requirements.txt)
    fi
    [[ "${SETUP_TEST:-0}" == 0 ]] || options+=(-r requirements-test.txt)
    # Compiled here, once: verl and vLLM are imported by a dozen processes at every start.
    "$VENV/bin/python" -m uv pip install --compile-bytecode "${options[@]}"
    "$VENV/bin/python" -m uv pip install --python "$VENV/bin/python" --no-deps --no-build-isolation --editable .
}

# What an installation depends on; $1 says whether the test tools are in it.
fingerprint() {
    { echo "$PLATFORM $1 $("$python" -V)" && cat requirements*.txt pyproject.toml scripts/setup.sh; } | sha256sum
}

python="$(find_python)"
stamp="$VENV/.treepo-setup" # first line: what the environment is for; then what has been installed completely
identity="platform $PLATFORM, $("$python" -V)"
if [[ -x "$VENV/bin/python" ]] && grep -qsF "$(fingerprint "${SETUP_TEST:-0}")" "$stamp"; then
    say "set-up: $VENV is up to date ($identity)"
    exit 0
fi
say "set-up: installing for $identity into $VENV ($PLATFORM_REASON; PLATFORM=gpu or cpu overrides)"
if [[ -f "$stamp" && "$(head -n 1 "$stamp")" != "$identity" ]]; then
    say "set-up: $VENV was made for $(head -n 1 "$stamp"), so it is made anew"
    "$python" -m venv --clear "$VENV"
elif [[ ! -x "$VENV/bin/python" ]]; then
    "$python" -m venv "$VENV"
fi
"$VENV/bin/python" -m pip --version >/dev/null || die "$VENV is damaged; delete it and try again"
echo "$identity" >"$stamp"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9 hatchling==1.33.0 editables==0.6
install_requirements
"$VENV/bin/python" -c "import torch, vllm, verl" || die "what was installed does not import; delete $VENV and try again"
fingerprint 0 >>"$stamp"
# An environment with the test tools serves a run, too.
[[ "${SETUP_TEST:-0}" == 0 ]] || fingerprint 1 >>"$stamp"
say "set-up: done"
