# SPDX-License-Identifier: Apache-2.0
"""The requirements files as data. Names are canonical: ``transferqueue``."""

from dataclasses import dataclass
from importlib.metadata import distributions, version

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.paths import ROOT

FOLDER = ROOT / "requirements"
LOCKS = ("cpu", "gpu", "tools", "test", "small")
PLATFORM = "cpu" if version("torch").endswith("+cpu") else "gpu"


@dataclass(frozen=True)
class Line:
    """One requirement of a file, and its hashes (``sha256:...``)."""

    requirement: Requirement
    hashes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (pin,) = self.requirement.specifier
        assert pin.operator == "==" and "*" not in pin.version, self.requirement
        return pin.version

    def applies(self, environment: dict[str, str], extra: str = "") -> bool:
        return applies(self.requirement, environment, extra)


def applies(requirement: Requirement, environment: dict[str, str], extra: str = "") -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate({**environment, "extra": extra})


def linux(python: str, machine: str) -> dict[str, str]:
    """Marker values of CPython ``python`` on Linux."""
    system = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine}
    names = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    numbers = {"python_version": python, "python_full_version": f"{python}.9", "implementation_version": f"{python}.9"}
    return {**default_environment(), **system, **names, **numbers}


def read(file: str) -> list[Line]:
    """Return the requirements in a file of the folder, without comments."""
    text = (FOLDER / file).read_text().replace("\\\n", " ")
    lines = []
    for line in text.splitlines():
        content = line.partition("#")[0].strip()
        if content:
            requirement, *hashes = content.split(" --hash=")
            lines.append(Line(Requirement(requirement.strip()), tuple(mark.strip() for mark in hashes)))
    return lines


def platform_here() -> list[Line]:
    """Return the locked packages for this platform and this Python."""
    files = [f"{PLATFORM}.txt", *(["cpu-torch.txt"] if PLATFORM == "cpu" else [])]
    return [line for file in files for line in read(file) if line.applies(default_environment())]


def installed_here() -> list[Line]:
    """Return all locked packages of this environment: platform, set-up tools and test tools."""
    tools = [line for file in ("tools.txt", "test.txt") for line in read(file)]
    return platform_here() + [line for line in tools if line.applies(default_environment())]


def versions_here() -> dict[str, str]:
    """Return the version of each distribution on Python's path, by the first occurrence."""
    found: dict[str, str] = {}
    for distribution in distributions():
        found.setdefault(canonicalize_name(distribution.name), distribution.version)
    return found
