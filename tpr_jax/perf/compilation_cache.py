"""Keeps compiled programs in the user's cache folder, so that the next start compiles nothing."""

import hashlib
import os
import platform
import sys
import warnings
from collections.abc import MutableMapping
from pathlib import Path

from tpr_jax.utils import cpu

MAX_BYTES = 2 * 2**30  # the programs that were not used for the longest time are removed first


def enable(environment: MutableMapping[str, str] = os.environ) -> Path | None:
    """Switches on JAX's persistent compilation cache, for this process and those that it starts.

    Leaves everything as it is where the user has decided: where JAX_COMPILATION_CACHE_DIR names a folder, or
    where JAX_ENABLE_COMPILATION_CACHE is false. A folder that cannot be written is not used.

    Args:
      environment: the environment variables, which are changed.

    Returns:
      The folder of the cache; None if it is not switched on here.
    """
    is_off = environment.get("JAX_ENABLE_COMPILATION_CACHE", "1").lower() in (
        "0",
        "false",
        "off",
        "no",
        "f",
        "n",
    )
    if is_off or "JAX_COMPILATION_CACHE_DIR" in environment:
        return None
    folder = cache_folder(environment)
    if folder is None or not _is_writable(folder):
        return None
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": MAX_BYTES,
        # JAX skips programs that compile within a second; a run has dozens of them.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        environment.setdefault(name.upper(), str(value))
    if environment is os.environ:
        # JAX compiles what it cannot read or keep; on a full disk it would say so for each program.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
        if "jax" in sys.modules:  # it reads the variables at its import
            import jax

            for name in settings:
                jax.config.update(name, type(settings[name])(environment[name.upper()]))
    return folder


def disable(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switches JAX's persistent compilation cache off, for this process and those that it starts."""
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if environment is os.environ and "jax" in sys.modules:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)


def cache_folder(environment: MutableMapping[str, str] = os.environ) -> Path | None:
    """Returns the folder of this machine's programs in the user's cache folder; None if there is no home.

    Machines with different CPUs may share a home folder, and a program for one of them may crash on another.
    """
    base = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        return None
    return Path(base) / "tpr_jax" / "programs" / cpu_digest()


def cpu_digest(cpuinfo: str = cpu.CPUINFO) -> str:
    """Returns a short digest of the CPU's model and instruction sets."""
    fields = cpu.fields(cpuinfo)
    names = ("model name", "flags", "Features", "CPU part")
    described = [value for name in names for value in fields.get(name, [])] or [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *described]).encode()).hexdigest()[:12]


def _is_writable(folder: Path) -> bool:
    try:
        # JAX runs what is in it, so nobody else may write there.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
