"""requirements*.txt and their locks: everything is locked, with hashes, for each supported Python."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCKS = {
    "requirements.lock": ("requirements.txt", "requirements-tensorflow.txt"),
    "requirements-test.lock": ("requirements-test.txt",),
    "requirements-docs.lock": ("requirements-docs.txt",),
    "requirements-uv.lock": ("requirements-uv.txt",),
}
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = {
    "linux": {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"},
    "arm": {"sys_platform": "linux", "platform_machine": "aarch64", "platform_system": "Linux"},
    "mac": {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin"},
}


PROSE = ", ".join(PYTHONS[:-1]) + f" or {PYTHONS[-1]}"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_pages_name_the_pythons(page):
    named = re.findall(r"You need Python ([\d., or]+\d)\.(?=\s)", (ROOT / page).read_text())
    assert named == [PROSE]


def test_the_package_names_the_pythons():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in project["classifiers"] if line.startswith(prefix)]
    assert tuple(version for version in named if "." in version) == PYTHONS
    assert project["requires-python"] == f">={PYTHONS[0]}"


def logical_lines(name: str) -> list[str]:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """Yields (pinned requirement, its hashes) for each entry."""
    entries = [line.split("--hash=") for line in logical_lines(name)]
    return [(Requirement(head), [one.strip() for one in hashes]) for head, *hashes in entries]


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
        **MACHINES[machine],
    }


def applies(requirement: Requirement, where: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(where)


def pinned(name: str, where: dict[str, str]) -> dict[str, str]:
    """Returns package -> version that a lock installs in an environment."""
    found = {}
    for requirement, _ in locked(name):
        if applies(requirement, where):
            (only,) = requirement.specifier
            assert only.operator == "==" and canonicalize_name(requirement.name) not in found
            found[canonicalize_name(requirement.name)] = only.version
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_each_entry_has_hashes(name):
    for requirement, hashes in locked(name):
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), requirement


@pytest.mark.parametrize("python", [*PYTHONS, "3.14"])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_its_ranges_ask_for(name, machine, python):
    where = environment(python, machine)
    versions = pinned(name, where)
    wanted = [Requirement(line) for source in LOCKS[name] for line in logical_lines(source)]
    assert wanted
    for requirement in wanted:
        if applies(requirement, where):
            assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    others = pinned("requirements.lock", where)
    assert {p: v for p, v in versions.items() if p in others and others[p] != v} == {}


@pytest.mark.parametrize("python", PYTHONS)
def test_jax_is_the_newest_that_the_python_takes(python):
    """JAX 0.10 is the last for Python 3.11; newer Pythons take a newer JAX, which is tested too."""
    versions = pinned("requirements.lock", environment(python, "linux"))
    assert (versions["jax"].split(".")[:2] == ["0", "10"]) == (python == "3.11")
    assert versions["jax"] == versions["jaxlib"]


def test_tensorflow_is_in_no_requirement_and_ends_with_python_3_13():
    for name in ("requirements.txt", "requirements-onnx.txt"):
        assert not [line for line in logical_lines(name) if "tensorflow" in line]
    for machine, package in (("linux", "tensorflow-cpu"), ("arm", "tensorflow"), ("mac", "tensorflow")):
        for python in (*PYTHONS, "3.14"):
            names = {
                p for p in pinned("requirements.lock", environment(python, machine)) if "tensorflow" in p
            }
            there = {package, "tensorflow-datasets", "tensorflow-metadata"}
            assert names == (set() if python == "3.14" else there)


def test_orbax_stays_below_its_next_api():
    (orbax,) = (Requirement(line) for line in logical_lines("requirements.txt") if "orbax" in line)
    assert "0.12.8" in orbax.specifier and "1.0.0" not in orbax.specifier


def test_the_tpus_compiler_fits_each_jax():
    """Compares with the requirements of jax[tpu]; pip requires hashes for all packages or none."""
    entries = [one for one in locked("requirements-aot.txt") if one[0].name == "libtpu"]
    of_python = {"3.11": "0.0.42.1", "3.13": "0.0.50.1"}  # jax[tpu] 0.10.2 and 0.12.0.1
    for python, version in of_python.items():
        (found,) = (one for one in entries if applies(one[0], environment(python, "linux")))
        assert version in found[0].specifier and found[1]
