"""Stored programs compute the same bits, and are used only where all that determines them is the same."""

import os

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from tpr_jax.perf import stored_programs
from tpr_jax.perf.stored_programs import SUFFIX, StoredProgram

X = np.linspace(-2, 3, 12, dtype=np.float32).reshape(3, 4)
VARIABLES = {"b": {"kernel": np.ones((4, 2), np.float32) / 3}, "a": np.float32(0.1)}


def encode(variables, x):
    return jax.numpy.sin(x @ variables["b"]["kernel"] + variables["a"])


@pytest.fixture
def folder(tmp_path):
    """The folder of stored programs in a cache of the test's own."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    jax_cache.reset_cache()
    yield tmp_path / "cache" / stored_programs.FOLDER
    jax.config.update("jax_compilation_cache_dir", before)
    jax_cache.reset_cache()


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one.py").write_text("ONE = 1\n")
    return tmp_path / "source"


def new_jit():
    """Returns a jitted function that shares nothing with others in memory, as in a new process."""
    return jax.jit(lambda variables, x: encode(variables, x))


def fresh(source, settings="settings", make=new_jit):
    return StoredProgram(make, settings, [source])


def unused():
    raise AssertionError("the stored program should have been used")


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_stored_program_is_neither_traced_nor_compiled_and_computes_the_same_bits(folder, source):
    expected = np.asarray(jax.jit(encode)(VARIABLES, X))
    np.testing.assert_array_equal(fresh(source)(VARIABLES, X), expected)
    (name,) = files(folder)
    assert name.endswith(SUFFIX) and (folder / name).stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0
    again = fresh(source, make=unused)
    np.testing.assert_array_equal(again(VARIABLES, X), expected)
    other = {"b": {"kernel": VARIABLES["b"]["kernel"] * 2}, "a": np.float32(0)}  # values are no part of it
    np.testing.assert_array_equal(again(other, X), jax.jit(encode)(other, X))
    assert files(folder) == [name]


def test_jaxs_own_cache_is_used_afterwards(folder, source):
    fresh(source)(VARIABLES, X)
    assert jax.config.jax_enable_compilation_cache
    jax.jit(lambda x: x * 3 + 1)(X)
    assert list(folder.parent.glob("*-cache"))


def test_what_jaxs_cache_had_compiled_is_stored_too(folder, source):
    """A program that was read from JAX's cache cannot be stored: it would lack its functions."""
    events = []
    new_jit()(VARIABLES, X)
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    fresh(source)(VARIABLES, X)
    assert "/jax/compilation_cache/cache_hits" not in events
    new_jit()(VARIABLES, X)
    assert "/jax/compilation_cache/cache_hits" in events  # it is the name of the event
    expected = np.asarray(jax.jit(encode)(VARIABLES, X))
    np.testing.assert_array_equal(fresh(source, make=unused)(VARIABLES, X), expected)


def change_source(source, monkeypatch):
    (source / "one.py").write_text("ONE = 2\n")


def add_source(source, monkeypatch):
    (source / "below").mkdir()
    (source / "below" / "two.py").write_text("TWO = 2\n")


def change_version(source, monkeypatch):
    version = stored_programs.metadata.version
    monkeypatch.setattr(stored_programs.metadata, "version", lambda name: f"{version(name)}.1")


def change_cpu(source, monkeypatch):
    monkeypatch.setattr(stored_programs.compilation_cache, "cpu_digest", lambda: "another")


def change_flags(source, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")


@pytest.mark.parametrize("change", [change_source, add_source, change_version, change_cpu, change_flags])
def test_a_change_of_anything_that_determines_a_program_compiles_it_again(
    folder, source, monkeypatch, change
):
    fresh(source)(VARIABLES, X)
    change(source, monkeypatch)
    fresh(source)(VARIABLES, X)
    assert len(files(folder)) == 2


def test_shapes_settings_and_jaxs_settings_have_programs_of_their_own(folder, source):
    program = fresh(source)
    program(VARIABLES, X)
    program(VARIABLES, X[:2])
    program(VARIABLES, X.astype(np.float16))
    fresh(source, settings="others")(VARIABLES, X)
    with jax.default_matmul_precision("bfloat16"):
        program(VARIABLES, X)
    assert len(files(folder)) == 5
    program(VARIABLES, X)
    assert len(files(folder)) == 5


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-9], lambda b: b[:99] + b"?" + b[100:], lambda b: b[:7], lambda b: bytes(32) + b[32:]],
)
def test_a_damaged_file_is_replaced(folder, source, damage):
    expected = np.asarray(fresh(source)(VARIABLES, X))
    (name,) = files(folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(damage(content))
    np.testing.assert_array_equal(fresh(source)(VARIABLES, X), expected)
    replaced = (folder / name).read_bytes()
    assert files(folder) == [name] and len(replaced) > len(content) / 2 and replaced[:32] != bytes(32)
    fresh(source, make=unused)(VARIABLES, X)


def test_what_cannot_be_stored_is_compiled_once_more_by_jax_alone(folder, source, monkeypatch):
    """An empty file says so, so that not every start compiles without JAX's cache."""
    monkeypatch.setattr(stored_programs, "_unpack", lambda content, args: lambda *args: np.zeros((3, 2)))
    expected = np.asarray(jax.jit(encode)(VARIABLES, X))
    np.testing.assert_array_equal(fresh(source)(VARIABLES, X), expected)
    (name,) = files(folder)
    assert (folder / name).read_bytes() == b""
    monkeypatch.setattr(stored_programs, "_without_cache", unused)
    np.testing.assert_array_equal(fresh(source)(VARIABLES, X), expected)


def test_nothing_is_stored_without_a_cache(folder, source, monkeypatch):
    for setting, value in (("jax_enable_compilation_cache", False), ("jax_compilation_cache_dir", None)):
        before = getattr(jax.config, setting)
        jax.config.update(setting, value)
        try:
            fresh(source)(VARIABLES, X)
        finally:
            jax.config.update(setting, before)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    fresh(source)(VARIABLES, X)
    assert not folder.exists()


def test_a_folder_of_others_is_not_used(folder, source, monkeypatch):
    """What is in it is run, and JAX's own cache compiles faster than no cache at all."""
    fresh(source)(VARIABLES, X)
    (name,) = files(folder)
    (folder / name).write_bytes(b"replaced by somebody")
    folder.chmod(0o770)
    monkeypatch.setattr(StoredProgram, "_compile", unused)
    expected = np.asarray(jax.jit(encode)(VARIABLES, X))
    np.testing.assert_array_equal(fresh(source)(VARIABLES, X), expected)
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    np.testing.assert_array_equal(fresh(source)(VARIABLES, X), expected)


def test_a_folder_that_cannot_be_written_does_not_matter(folder, source):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file")
    expected = np.asarray(jax.jit(encode)(VARIABLES, X))
    np.testing.assert_array_equal(fresh(source)(VARIABLES, X), expected)


def test_programs_that_were_not_used_for_the_longest_time_are_removed(folder, source, monkeypatch):
    for i, name in enumerate("abc"):
        fresh(source, settings=name)(VARIABLES, X)
        for file in folder.iterdir():
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 100))
        if i == 0:
            (oldest,) = files(folder)
    fresh(source, settings="a", make=unused)(VARIABLES, X)  # its use counts
    size = max(file.stat().st_size for file in folder.iterdir())
    monkeypatch.setattr(stored_programs, "MAX_BYTES", 3 * size)
    fresh(source, settings="d")(VARIABLES, X)
    assert oldest in files(folder) and len(files(folder)) == 3
    for kept in "cd":
        fresh(source, settings=kept, make=unused)(VARIABLES, X)
