"""Fixtures: a tiny data set, a tiny CLIP, and runs on them in this or a separate process."""

import atexit
import fcntl
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests import choice, long
from tests.small_disk import on_small_disk  # noqa: F401 (a fixture)
from tests.typed import enforce_annotations

# pytest-xdist runs the tests in several processes, its workers; they share what is slow to make.
WORKER = "PYTEST_XDIST_WORKER" in os.environ
# The tests compile the same small programs many times, in many processes; the cache compiles each once. It
# must be set before a test imports JAX, and the workers inherit it.
if not WORKER:
    _CACHE = tempfile.mkdtemp(prefix="tpr_jax_tests_")
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Containers often switch bytecode off. Without it, each test process compiles all tests again, which is half
# of the time it takes to collect them, and the processes that tests start compile TensorFlow again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# There are as many test processes as cores, whose threads for products would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Optimizing these programs takes several times as long as it saves. JAX_DISABLE_MOST_OPTIMIZATIONS=0, which
# `make test-slow` and `make test-torch` set, compiles them as users do, for the golden numbers too. XLA
# aborts at a flag that it does not know, as other versions may not know this one.
QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1" and not WORKER:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS}".strip()

# Importing, collecting tests and tracing make many objects. With a garbage collection for each 700 of them,
# Python's default, collections took 8 of 92 seconds of tests that trace; with one for each 10,000, 4.
gc.set_threshold(10_000, 10, 10)

enforce_annotations()  # imports JAX, which reads what is set above

# A process that a shell starts in the background ignores Ctrl-C, and so would all processes that the tests
# start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis' default deadline of 200 ms for an example fails on a busy machine.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _restore_signals():
    """Restores the handlers: a command that runs in this process sets ones that end the process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        if handler is not None:  # one of C, such as JAX's for several processes
            signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def _without_pictures_of_the_report(request):
    """Leaves out the report's photos and charts, which take a fifth of a small run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        if "report" not in request.path.parts:
            patch.setattr("tpr_jax.report.png.render", lambda facts: b"\x89PNG: a test made this")
            patch.setattr("tpr_jax.report.html.loss_svg", lambda points: "<svg/>")
            patch.setattr("tpr_jax.report.html.recall_svg", lambda curves: "<svg/>")
        yield


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's, which may be switched off
def pytest_xdist_auto_num_workers():
    """Returns one more than there are cores: tests wait for processes and signals a quarter of their time."""
    return (os.cpu_count() or 1) + 1


def pytest_ignore_collect(collection_path, config):
    """Skips a file without a chosen test: each process takes seconds to import them all."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and not choice.may_hold_tests(collection_path, config.option.markexpr) else None


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items):
    long.mark(items)
    choice.check(items)


def pytest_collection_finish():
    # A module with enforced annotations that runs as `__main__` in this process would write them into the
    # bytecode that other processes read.
    sys.dont_write_bytecode = True


COLORS = {
    "red": (200, 30, 30),
    "green": (30, 160, 40),
    "blue": (30, 50, 200),
    "yellow": (220, 210, 40),
    "white": (240, 240, 240),
    "black": (15, 15, 15),
    "grey": (128, 128, 128),
    "pink": (240, 150, 180),
}
IDENTITIES = {"train": 12, "val": 6, "test": 8}

CONFIG = """
from tpr_jax import config as tpr_config


def get_config():
    config = tpr_config.base()
    config.method = {{"name": "dm_adapter", "num_experts": 3, "top_k": 2, "reduction": 8, "router": "blend",
                     "scales": (1.0, 1.0)}}
    config.losses.update({{"sdm": 1.0, "balance": 0.5}})
    config.backbone = {clip!r}
    config.dataset = "cuhk_pedes"
    config.data_dir = {data!r}
    config.image_size = (32, 16)
    config.pad = 2
    config.batch_size = 8
    config.eval_batch_size = 8
    config.num_epochs = 20
    config.eval_every = 5
    config.checkpoint_every = 10
    config.log_every = 1
    config.dtype = "float32"
    config.optimizer.update({{"lr": 3e-3, "eps": 1e-6, "warmup_epochs": 1.0, "per_step": True}})
    return config
"""


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """Returns a folder that `make(folder)` fills in the first test process that asks for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if WORKER else base) / name
    with open(f"{folder}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = Path(f"{folder}.whole")
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a worker that failed
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


def _write_data(folder: Path, seed: int = 0) -> None:
    """Writes two images per identity, in two colors, with two captions each that name the colors."""
    rng = np.random.default_rng(seed)
    (folder / "imgs").mkdir(parents=True)
    entries, names = [], list(COLORS)
    for split, count in IDENTITIES.items():
        for _ in range(count):
            pid = len(entries) // 2 + 1
            top, bottom = (names[i] for i in rng.permutation(len(names))[:2])
            for view in range(2):
                pixels = np.empty((40, 20, 3))
                pixels[:20], pixels[20:] = COLORS[top], COLORS[bottom]
                pixels = (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "imgs" / f"{pid}_{view}.jpg")
                captions = [
                    f"A person in a {top} coat and {bottom} trousers.",
                    f"{bottom} below, {top} above",
                ]
                path = f"{pid}_{view}.jpg"
                entries.append({"split": split, "captions": captions, "file_path": path, "id": pid})
    (folder / "reid_raw.json").write_text(json.dumps(entries))


def _write_clip(folder: Path, texts: list[str]) -> None:
    """Writes two towers of one block of width 64 with random weights and their own vocabulary."""
    import jax

    from tools.train_tokenizer import train_tokenizer
    from tpr_jax.models import clip
    from tpr_jax.models.config import ClipConfig
    from tpr_jax.models.methods import zero_shot
    from tpr_jax.weights.clip import save_clip

    folder.mkdir(parents=True)
    size = train_tokenizer(texts, 560, folder / "tokenizer.json")
    config = ClipConfig(
        image_size=(32, 16),
        patch_size=8,
        vision_width=64,
        vision_layers=1,
        vision_heads=1,
        vision_mlp=128,
        text_width=64,
        text_layers=1,
        text_heads=1,
        text_mlp=128,
        context_length=24,
        vocab_size=size,
        embed_dim=32,
        eot_id=size - 1,
    )
    variables = jax.jit(clip.build(config, zero_shot(), "float32")["init"])(jax.random.key(3))
    save_clip(folder, config, jax.tree.map(np.asarray, variables["params"]))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, str]:
    """`config`: a config file on `data` (CUHK-PEDES' format) and `clip`.

    120 steps, 12 checkpoints and 4 evaluations take seconds, which is long enough to kill a run.
    """

    def make(root: Path) -> None:
        _write_data(root / "data")
        entries = json.loads((root / "data" / "reid_raw.json").read_text())
        _write_clip(root / "clip", [caption for entry in entries for caption in entry["captions"]])
        (root / "tiny.py").write_text(CONFIG.format(data=str(root / "data"), clip=str(root / "clip")))

    root = made_once(tmp_path_factory, "tiny", make)
    return {"data": str(root / "data"), "clip": str(root / "clip"), "config": str(root / "tiny.py")}


@pytest.fixture
def own_data(tiny, tmp_path) -> Path:
    """A copy of the tiny data set that a test may damage."""
    return Path(shutil.copytree(tiny["data"], tmp_path / "data"))


@pytest.fixture
def own_clip(tiny, tmp_path) -> Path:
    """A copy of the tiny CLIP that a test may damage."""
    return Path(shutil.copytree(tiny["clip"], tmp_path / "clip"))


@pytest.fixture(scope="session")
def make_config(tiny):
    """Returns `make_config(**changes)`: the tiny config with changed keys (double underscores for dots)."""

    def make(**changes):
        from tpr_jax.config.flags import parse_flags

        words = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
        return parse_flags(["main", "--config", tiny["config"], "--workdir", "unused", *words])[0]

    return make


@pytest.fixture(autouse=True, scope="session")
def in_float32():
    """Computes in float32 by default on every machine, so that features can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tpr_jax.perf.dtypes.has_bfloat16_products", lambda: False)
        yield


def forced_devices(count: int, quick: bool = False) -> dict[str, str]:
    """Returns the environment of a process with this many CPU devices; `quick` turns optimizations off."""
    found = {**os.environ, "JAX_PLATFORMS": "cpu"} | (quick_environment() if quick else {})
    found["XLA_FLAGS"] = (
        f"{found.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
    )
    return found


def quick_environment() -> dict[str, str]:
    """Returns the variables of a process without optimizations: many compile longer than they compute."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS}".strip()
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": flags}


@pytest.fixture
def quick_processes(monkeypatch):
    """Turns optimizations off in the processes that the test starts."""
    for key, value in quick_environment().items():
        monkeypatch.setenv(key, value)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def start(tiny):
    """Returns `start(workdir, *flags)`, which starts the tiny run as a process with the variables `env`."""

    def begin(workdir, *flags, env=None) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "tpr_jax.main",
            "--config",
            tiny["config"],
            "--workdir",
            str(workdir),
        ]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            env=_environment() | (env or {}),
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    return begin


@pytest.fixture(scope="session")
def run(start):
    """Returns `run(workdir, *flags)`, which runs the tiny config in a process and returns the result."""

    def finish(workdir, *flags) -> subprocess.CompletedProcess:
        process = start(workdir, *flags)
        stdout, stderr = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return finish


@pytest.fixture(scope="session")
def finished(run, tmp_path_factory):
    """A finished run: (its workdir, its process). It is made once, and tests only read it."""

    def make(folder: Path) -> None:
        (folder / "process.json").write_text(json.dumps(vars(run(folder / "run"))))

    folder = made_once(tmp_path_factory, "finished", make)
    return folder / "run", subprocess.CompletedProcess(**json.loads((folder / "process.json").read_text()))


@pytest.fixture(scope="session")
def explained():
    """Returns `explained(argv)`, which runs an invalid command line and returns its one-line error."""

    def call(capsys, *flags) -> str:
        from tpr_jax import main
        from tpr_jax.cli.exit import explain_and_exit

        with pytest.raises(SystemExit) as ended:
            explain_and_exit(main.run, ["main", *map(str, flags)])
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.endswith("\n") and line.count("\n") == 1, line
        return line

    return call


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurements of `bench` by constants; returns the list of groups it asked for."""
    from tpr_jax.bench import worker

    seen = []

    def stand_in(subjects, turns, say):
        seen.append(subjects)
        took = {"seconds": [1.0] * turns, "flops": 1.0, "compile_seconds": 0.0, "peak_memory_bytes": 1}
        return [{**subject, **took, "peak_device_memory_bytes": None} for subject in subjects]

    monkeypatch.setattr(worker, "measure", stand_in)
    return seen
