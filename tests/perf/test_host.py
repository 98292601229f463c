"""The description of a machine: its devices and versions."""

import importlib.metadata
import platform
from types import SimpleNamespace

import pytest

import tpr_jax
from tpr_jax.perf import host
from tpr_jax.utils import cpu

H200 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")
CPU = SimpleNamespace(platform="cpu", device_kind="cpu")


def test_describes_accelerators_by_the_name_that_jax_gives():
    described = host.describe([H200, H200])
    assert (described["platform"], described["device"], described["devices"]) == ("gpu", "NVIDIA H200", 2)
    assert described["versions"]["tpr_jax"] == tpr_jax.__version__
    assert described["versions"]["python"] == platform.python_version()
    assert described["versions"]["jax"] == importlib.metadata.version("jax")


@pytest.mark.parametrize(
    ("fields", "available", "name"),
    [
        ({"model name": ["Xeon"]}, {"avx512f", "amx_bf16"}, "Xeon with amx_bf16"),
        ({"model name": ["Xeon"]}, {"avx512f"}, "Xeon with avx512f"),
        ({"model name": ["Atom"]}, {"sse"}, "Atom"),
        ({}, set(), platform.processor() or platform.machine()),
    ],
)
def test_names_a_cpu_and_its_fastest_instructions(monkeypatch, fields, available, name):
    monkeypatch.setattr(cpu, "fields", lambda: fields)
    monkeypatch.setattr(cpu, "instruction_sets", lambda: available)
    assert host.describe([CPU])["device"] == name


def test_leaves_out_packages_that_are_not_installed(monkeypatch):
    monkeypatch.setattr(host, "PACKAGES", ("numpy", "no_such_package"))
    assert list(host.versions()) == ["tpr_jax", "python", "numpy"]
