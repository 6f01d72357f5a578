#!/usr/bin/env bash
# Makes the virtual environment and installs exactly the packages locked in requirements/ (scripts/lock.sh).
# Quick when nothing changed. Packages that you added to the environment stay.
#
#   bash scripts/setup.sh
#   PLATFORM=cpu VENV=/tmp/venv bash scripts/setup.sh
#
# Knobs (environment):
#   PLATFORM  gpu or cpu; default: gpu where `nvidia-smi -L` lists a GPU, else cpu
#   VENV      folder of the virtual environment; default .venv in the repository
#   PYTHON    interpreter of the environment, 3.11 or 3.12; default python3.11, else python3.12, else python3
#   SETUP_TEST=1  also installs the test tools, requirements/test.txt
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPOSITORY"

install_packages() {
    local options=(--python "$VENV/bin/python" --no-deps --compile-bytecode) torch=()
    find_package_sources "$VENV/bin/python"
    # A dozen processes import verl and vLLM at every start, so bytecode is compiled once, here.
    if [[ "$PLATFORM" == cpu ]]; then
        if [[ -n "$TORCH_ON_DISK" ]]; then
            say "torch's CPU build: from a wheel in $TORCH_ON_DISK"
        else
            say "torch's CPU build: from PyTorch's CPU index"
            torch=(--torch-backend cpu)
        fi
        "$VENV/bin/python" -m uv pip install "${options[@]}" "${SOURCES[@]}" "${torch[@]}" -r requirements/cpu-torch.txt
    fi
    options+=(--require-hashes --build-constraints requirements/tools.txt
        --require-build-hashes --preview-features build-dependency-hashes)
    [[ "${SETUP_TEST:-0}" == 0 ]] || options+=(-r requirements/test.txt)
    "$VENV/bin/python" -m uv pip install "${options[@]}" "${SOURCES[@]}" -r "requirements/$PLATFORM.txt"
    "$VENV/bin/python" -m uv pip install --python "$VENV/bin/python" --no-deps --no-build-isolation --editable .
}

# Prints a hash of the inputs of an installation; $1 is SETUP_TEST.
fingerprint() {
    {
        echo "$PLATFORM $1 $("$python" -V)"
        cat requirements/*.txt pyproject.toml scripts/setup.sh scripts/common.sh
    } | sha256sum
}

# Exits with the path of another package named recipe, which would fail a run minutes later.
check_recipe() { "$VENV/bin/python" -m treepo_verl_plugin || exit 2; }

python="$(find_python)"
stamp="$VENV/.treepo-setup" # first line: platform and Python; then fingerprints of complete installations
identity="platform $PLATFORM, $("$python" -V)"
if [[ -x "$VENV/bin/python" ]] && grep -qsF "$(fingerprint "${SETUP_TEST:-0}")" "$stamp"; then
    say "set-up: $VENV is up to date ($identity)"
    check_recipe
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
install_tools "$VENV/bin/python"
install_packages
check_recipe
"$VENV/bin/python" -c "import torch, vllm, verl" || die "the installation does not import; delete $VENV and try again"
fingerprint 0 >>"$stamp"
# An environment with the test tools also works for runs.
[[ "${SETUP_TEST:-0}" == 0 ]] || fingerprint 1 >>"$stamp"
say "set-up: done"
