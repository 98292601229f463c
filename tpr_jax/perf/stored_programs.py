"""Keeps compiled programs so that the next start neither traces nor compiles them.

JAX's own persistent cache saves only the compilation, because its key is computed from the traced program.
Tracing a text tower and importing Flax for it takes a third of a query on the command line. A program is
found here by what determines it before it is traced: the versions, the source of the modules that it is
traced from, and the settings. Programs are kept in the folder of JAX's cache, and only for the CPU.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tpr_jax.perf import compilation_cache
from tpr_jax.utils.files import move_over

FOLDER = "encoders"  # below the folder of JAX's cache
SUFFIX = ".program"
MAX_BYTES = 2**28  # the programs that were not used for the longest time are removed first


class StoredProgram:
    """A jitted function whose compiled programs are kept between processes, one for each set of shapes.

    Without a folder to keep them, on other platforms than the CPU, and with several processes, it is the
    jitted function.
    """

    def __init__(self, make: Callable[[], jax.stages.Wrapped], settings: str, sources: Iterable[Path]):
        """Sets what is stored.

        Args:
          make: returns the jitted function, whose result is one array; called only if no stored program fits.
          settings: all that the function depends on, besides its arguments, its source and JAX's settings.
          sources: the files and folders of the Python source that the function is traced from.
        """
        self._make, self._settings, self._sources = make, settings, tuple(sources)
        self._jitted: jax.stages.Wrapped | None = None
        self._programs: dict[str, Callable] = {}

    def __call__(self, *args: Any) -> Any:
        """Runs the function."""
        shapes = str(jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), args))
        key = f"{shapes} {_jax_settings()}"
        if key not in self._programs:
            folder = stored_folder()
            self._programs[key] = self._jit() if folder is None else self._find(folder, key, args)
        return self._programs[key](*args)

    def _jit(self) -> jax.stages.Wrapped:
        if self._jitted is None:
            self._jitted = self._make()
        return self._jitted

    def _find(self, folder: Path, key: str, args: tuple) -> Callable:
        file = folder / (_digest([self._settings, key], self._sources) + SUFFIX)
        try:
            content = file.read_bytes()
        except OSError:
            return self._compile(file, args)
        if not content:  # it cannot be stored, see `_compile`
            return self._jit()
        try:
            program = _unpack(content, args)
        except Exception:  # a damaged file, or a version of JAX that cannot read it after all
            return self._compile(file, args)
        with contextlib.suppress(OSError):
            os.utime(file)
        return program

    def _compile(self, file: Path, args: tuple) -> Callable:
        """Compiles the function and stores it; an empty file if a stored one does not compute the same."""
        with _without_cache():  # XLA cannot store a program again that it has read from JAX's cache
            program = self._jit().lower(*args).compile()
        content = b""
        with contextlib.suppress(Exception):
            packed = _pack(program)
            if np.array_equal(_unpack(packed, args)(*args), program(*args), equal_nan=True):
                content = packed
        with contextlib.suppress(OSError):
            _write(file, content)
            _remove_oldest(file.parent)
        return program


def stored_folder() -> Path | None:
    """Returns the folder in which programs are kept; None if they are not kept.

    A folder that another user owns or can write is not used, because what is in it is run.
    """
    settings = jax.config.values
    cache = settings["jax_compilation_cache_dir"]
    if not cache or not settings["jax_enable_compilation_cache"] or not os.path.isabs(cache):
        return None
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return None
    folder = Path(cache) / FOLDER
    return folder if _is_private(folder) else None


def _is_private(folder: Path) -> bool:
    """Makes a folder, and returns whether this user, and nobody else, can write it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stat = folder.stat()
    except OSError:
        return False
    is_own = not hasattr(os, "getuid") or stat.st_uid == os.getuid()
    return is_own and not stat.st_mode & 0o022 and os.access(folder, os.W_OK | os.X_OK)


def _jax_settings() -> str:
    """Returns JAX's settings as they are here, also within a `with` block that changes them."""
    values = jax.config.values
    return repr({name: getattr(jax.config, name, values[name]) for name in values if "cache" not in name})


def _digest(settings: Iterable[str], sources: Iterable[Path]) -> str:
    """Computes a digest of all that determines a program, besides the values of its arguments."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    machine = (compilation_cache.cpu_digest(), os.cpu_count(), os.environ.get("XLA_FLAGS", ""))
    digest = hashlib.sha256("\n".join([*settings, repr(versions), repr(machine)]).encode())
    for source in sources:
        for file in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _pack(program: jax.stages.Compiled) -> bytes:
    from jax.experimental import serialize_executable

    content = serialize_executable.serialize(program)[0]
    return hashlib.sha256(content).digest() + content


def _unpack(content: bytes, args: tuple) -> Callable:
    from jax.experimental import serialize_executable

    digest, program = content[:32], content[32:]
    if hashlib.sha256(program).digest() != digest:
        raise ValueError("the file is damaged")
    return serialize_executable.deserialize_and_load(
        program, jax.tree.structure((args, {})), jax.tree.structure(0)
    )


@contextlib.contextmanager
def _without_cache():
    from jax.experimental.compilation_cache import compilation_cache as cache

    jax.config.update("jax_enable_compilation_cache", False)
    cache.reset_cache()  # which remembers whether it is used
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        cache.reset_cache()


def _write(file: Path, content: bytes) -> None:
    """Writes a file that only this user may write: what is in it is run."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".")
    try:
        with open(handle, "wb") as opened:
            opened.write(content)
        move_over(temporary, file)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _remove_oldest(folder: Path) -> None:
    files = sorted(
        ((found := file.stat()).st_mtime, found.st_size, file) for file in folder.glob(f"*{SUFFIX}")
    )
    kept = sum(size for _, size, _ in files)
    for _, size, file in files:
        if kept <= MAX_BYTES:
            return
        file.unlink(missing_ok=True)
        kept -= size
