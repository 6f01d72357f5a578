#!/usr/bin/env bash
# Locks all packages: requirements/*.in -> requirements/*.txt, with versions and hashes for Python 3.11 and 3.12.
#
#   bash scripts/lock.sh                               keep locked versions, lock new requirements
#   bash scripts/lock.sh --upgrade                     upgrade all packages to the newest compatible versions
#   bash scripts/lock.sh --upgrade-package NAME        upgrade one package
#
# cpu.txt and gpu.txt have the packages of machines without and with a GPU, tools.txt those of the set-up, test.txt those
# of the tests, and small.txt those that small/model.py unpacks. The files contain no index and no folder. A lock takes
# about a minute and downloads metadata only.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$REPOSITORY"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
"$(find_python)" -m venv "$scratch/venv"
python="$scratch/venv/bin/python"
install_tools "$python"
find_package_sources "$python"

compile() {
    "$python" -m uv pip compile --quiet "${SOURCES[@]}" \
        --only-binary :all: --no-binary antlr4-python3-runtime "$@" >/dev/null
}

# lock NAME OPTIONS...: requirements/NAME.in -> requirements/NAME.txt
lock() {
    say "locking requirements/$1.txt"
    compile "requirements/$1.in" --output-file "requirements/$1.txt" --universal --python-version 3.11 \
        --generate-hashes --no-annotate --custom-compile-command "bash scripts/lock.sh" "${@:2}"
}

versions() { grep -oE '^[a-z0-9._-]+==[^ ;]+' "$1" | sort; }

# check NAME OPTIONS...: fails if Linux needs more. A lock for all systems reads the metadata of one wheel per package.
check() {
    local version missing
    for version in 3.11 3.12; do
        compile "requirements/$1.in" --output-file "$scratch/$1-$version.txt" --no-annotate --no-header \
            --python-version "$version" --python-platform x86_64-manylinux_2_35 -c "requirements/$1.txt" "${@:2}"
        missing="$(comm -23 <(versions "$scratch/$1-$version.txt") <(versions "requirements/$1.txt"))"
        [[ -z "$missing" ]] || die "requirements/$1.txt lacks, on Linux with Python $version:" \
            "${missing//$'\n'/, }. Add them to requirements/$1.in"
    done
}

together=(-c requirements/tools.in -c requirements/test.in)
lock cpu "${together[@]}" --excludes requirements/cpu-excludes.txt "$@"
lock gpu "${together[@]}" "$@"
locked=(-c requirements/cpu.txt -c requirements/gpu.txt)
lock tools "${locked[@]}" "$@"
lock test "${locked[@]}" -c requirements/tools.txt "$@"
lock small --no-deps "$@" # unpacked without their requirements, outside the environment
check cpu --excludes requirements/cpu-excludes.txt
check gpu
say "locked; to install: bash scripts/setup.sh"
