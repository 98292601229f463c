"""Compiled programs are kept in the user's cache folder, unless the user decides otherwise."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, _environment
from tpr_jax.perf import compilation_cache
from tpr_jax.perf.compilation_cache import cpu_digest, disable, enable


def test_uses_the_users_cache_folder(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = enable(environment)
    assert folder == tmp_path / "tpr_jax" / "programs" / cpu_digest() and folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    assert environment == {
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(compilation_cache.MAX_BYTES),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.mark.parametrize(
    "decision",
    [
        {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"},
        {"JAX_COMPILATION_CACHE_DIR": ""},
        {"JAX_ENABLE_COMPILATION_CACHE": "False"},
        {"JAX_ENABLE_COMPILATION_CACHE": "0"},
    ],
)
def test_leaves_what_the_user_decided(decision, tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), **decision}
    assert enable(environment) is None
    assert environment == {"XDG_CACHE_HOME": str(tmp_path), **decision} and not list(tmp_path.iterdir())


def test_keeps_a_limit_that_the_user_set(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_MAX_SIZE": "5000"}
    enable(environment)
    assert environment["JAX_COMPILATION_CACHE_MAX_SIZE"] == "5000"


def test_does_without_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    assert enable(environment) is None and list(environment) == ["XDG_CACHE_HOME"]


def test_disable_is_what_enable_respects(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    disable(environment)
    assert enable(environment) is None and not list(tmp_path.iterdir())


def test_machines_with_other_cpus_have_other_folders(tmp_path):
    digests = set()
    for i, flags in enumerate(["sse avx", "sse avx amx_bf16"]):
        path = tmp_path / str(i)
        path.write_text(f"model name\t: X\nflags\t\t: {flags}\ncpu MHz\t\t: {i}\n" * 2)
        digests.add(cpu_digest(str(path)))
    assert len(digests) == 2
    # The key includes neither the clock's rate nor the number of cores.
    (tmp_path / "2").write_text("model name\t: X\nflags\t\t: sse avx\ncpu MHz\t\t: 9\n")
    assert cpu_digest(str(tmp_path / "2")) in digests
    assert len(cpu_digest(str(tmp_path / "missing"))) == 12


PROGRAM = """
import sys
if {jax_first}:
    import jax
from tpr_jax.perf import compilation_cache
compilation_cache.{action}()
import jax
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
jax.jit(lambda x: x * 2 + 1)(3.0)
print(events.count("cache_hits"), events.count("cache_misses"))
"""


@pytest.mark.parametrize("jax_first", [False, True])
def test_a_second_process_compiles_nothing(jax_first, tmp_path):
    environment = _environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    environment = {key: value for key, value in environment.items() if not key.startswith("JAX_")}

    def run(action):
        code = PROGRAM.format(jax_first=jax_first, action=action)
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return tuple(map(int, done.stdout.split()))

    hits, misses = run("enable")
    assert hits == 0 and misses > 0
    assert run("enable") == (misses, 0)
    assert run("disable")[0] == 0
    for path in tmp_path.rglob("*-cache"):  # as a process leaves it that is killed while it writes
        path.write_bytes(path.read_bytes()[:9])
    assert run("enable")[0] == 0
    assert os.listdir(tmp_path) == ["tpr_jax"]
