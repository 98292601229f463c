"""Batches from tf.data and from threads are equal bit for bit, and so are runs without TensorFlow."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, _environment
from tests.data.test_pipeline import assert_same, make, records  # noqa: F401  a fixture
from tests.train.test_resume import rows
from tests.without_tensorflow import BLOCK
from tpr_jax.data import prefetch
from tpr_jax.errors import UserError

has_tensorflow = pytest.mark.skipif(prefetch.tensorflow() is None, reason="TensorFlow is not installed")


@contextlib.contextmanager
def count_calls(monkeypatch, name):
    """Yields a list that gets an item at each call of a function of `prefetch`."""
    calls, function = [], getattr(prefetch, name)

    def counting(*arguments):
        calls.append(name)
        return function(*arguments)

    with monkeypatch.context() as counted:
        counted.setattr(prefetch, name, counting)
        yield calls


def both_ways(monkeypatch, start):
    """Returns what `start()` yields with tf.data, and with threads; an error counts as a value."""

    def received():
        found = []
        try:
            for batch in start():
                found.append(batch)  # noqa: PERF402  keeps what came before an error
        except Exception as error:
            found.append({"error": np.array(f"{type(error).__name__}: {error}")})
        return found

    with count_calls(monkeypatch, "by_tensorflow") as calls:
        by_tensorflow = received()
    assert calls  # or threads would be compared with themselves
    with monkeypatch.context() as without:
        without.setattr(prefetch, "tensorflow", lambda: None)
        without.setattr(prefetch, "by_tensorflow", None)
        return by_tensorflow, received()


SETTINGS = {
    "augmented_and_masked": {},
    "from_memory": {"cache": True},
    "plain": {"augment": False, "mask_text": False},
    "masked_words": {"mlm": True},
    "identities": {"instances": 2},
    "a_share": {"process_index": 1, "process_count": 2},
    "one_large": {"batch_size": 18},
    "single": {"batch_size": 1},
}


@has_tensorflow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("step", [0, 1, 99])
def test_tf_data_and_threads_yield_the_same(name, step, records, monkeypatch):  # noqa: F811
    settings = {"cache": False, "pad": 3, **SETTINGS[name]}
    for epoch in (0, 3):
        left, right = both_ways(monkeypatch, lambda e=epoch: make(records, **settings)(e, step))
        assert_same(left, right)
        assert bool(left) == (step < len(list(make(records, **settings)(epoch))))


@has_tensorflow
def test_tf_data_and_threads_yield_the_same_mixture(records, monkeypatch):  # noqa: F811
    mixed = dataclasses.replace(records, passes=np.array([0.5] * 5 + [2.0] * 4))
    left, right = both_ways(monkeypatch, lambda: make(mixed, batch_size=3)(2, 1))
    assert_same(left, right)
    assert len(left) > 3


@has_tensorflow
@pytest.mark.parametrize("skip", [False, True])
def test_tf_data_and_threads_fail_at_the_same_step(skip, records, monkeypatch):  # noqa: F811
    Path(records.image_paths[8]).write_bytes(b"no picture")
    skipped = [{}, {}] if skip else [None, None]
    ways = iter(skipped)
    left, right = both_ways(monkeypatch, lambda: make(records, cache=False, skipped=next(ways))(0))
    assert_same(left, right)
    assert skipped[0] == skipped[1]
    if skip:
        assert len(left) == 4 and list(skipped[0]) == [records.image_paths[8]]
    else:
        assert "8.png: not an image" in str(left[-1]["error"]) and len(left) <= 4


@pytest.fixture(params=["tensorflow", "threads"])
def in_order(request, monkeypatch):
    """Implements `in_order` in each way, and checks that it was that one."""
    if request.param == "threads":
        monkeypatch.setattr(prefetch, "tensorflow", lambda: None)
    elif prefetch.tensorflow() is None:
        pytest.skip("TensorFlow is not installed")
    with (
        count_calls(monkeypatch, "by_tensorflow") as by_tensorflow,
        count_calls(monkeypatch, "by_threads") as by_threads,
    ):
        yield prefetch.in_order
    assert (bool(by_tensorflow), bool(by_threads)) == (
        request.param == "tensorflow",
        request.param == "threads",
    )


def number(row):
    return (row[0],)


KINDS = [((), np.int64)]


def test_keeps_the_order_of_the_rows(in_order):
    second_is_done = threading.Event()

    def load(row):
        if row[0] == 0:
            assert second_is_done.wait(600)
        if row[0] == 1:
            second_is_done.set()
        return (row * 10,)

    given = np.arange(7)[:, None]
    found = [int(one[0]) for (one,) in in_order(load, given, [((1,), np.int64)], 3)]
    assert found == [0, 10, 20, 30, 40, 50, 60]


def test_yields_nothing_for_no_rows(in_order):
    assert list(in_order(number, np.zeros((0, 1), int), KINDS, 2)) == []


@pytest.mark.parametrize("error", [UserError("a bad one"), ZeroDivisionError("a bad one")])
def test_raises_the_original_error_when_it_is_due(in_order, error):
    def load(row):
        if row[0] == 5:
            raise error
        return (row[0],)

    received = []
    with pytest.raises(type(error)) as raised:
        for (one,) in in_order(load, np.arange(9)[:, None], KINDS, 4):
            received.append(int(one))
    assert received == [0, 1, 2, 3, 4] and raised.value is error


@has_tensorflow
def test_tf_data_tunes_nothing(monkeypatch):
    """A stopped run would wait for its thread for tuning, which sleeps for up to a minute."""
    dataset = prefetch.tensorflow().data.Dataset
    found, iterate = [], dataset.as_numpy_iterator

    def noting(self):
        found.append(self.options())
        return iterate(self)

    monkeypatch.setattr(dataset, "as_numpy_iterator", noting)
    assert len(list(prefetch.in_order(number, np.arange(4)[:, None], KINDS, 2))) == 4
    assert [(one.autotune.enabled, one.threading.private_threadpool_size) for one in found] == [(False, 2)]


def test_threads_load_a_fixed_number_of_rows_ahead(monkeypatch):
    submitted, submit = [], prefetch.ThreadPoolExecutor.submit

    def recording_submit(pool, load, row):
        submitted.append(int(row[0]))
        return submit(pool, load, row)

    monkeypatch.setattr(prefetch.ThreadPoolExecutor, "submit", recording_submit)
    loading = prefetch.by_threads(number, np.arange(50)[:, None], 3)
    for turn in range(1, 5):
        next(loading)
        assert submitted == list(range(3 + prefetch.AHEAD + turn))
    loading.close()
    assert len(submitted) == 3 + prefetch.AHEAD + 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tpr_jax_input")]


def run_python(code: str, *words, block: str = BLOCK) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", block + code, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=600)


MAIN = "from tpr_jax import main; from tpr_jax.cli import exit; exit.explain_and_exit(main.run, sys.argv)"


def test_a_run_without_tensorflow_is_the_same_run(finished, tiny, tmp_path):
    """Losses, scores and results agree to the last digit; TensorBoard's events are written."""
    done = run_python(MAIN, "--config", tiny["config"], "--workdir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "run") == rows(finished[0]) and len(rows(finished[0])) > 120
    assert "Traceback" not in done.stderr and "tensorflow" not in done.stderr.lower()
    for part in ("final", "best_on_val", "zero_shot"):
        one, other = (
            json.loads((w / "results.json").read_text())[part] for w in (tmp_path / "run", finished[0])
        )
        assert one == other
    left, right = (
        sorted(path.stat().st_size for path in folder.rglob("events.out.tfevents*"))
        for folder in (tmp_path / "run", finished[0])
    )
    assert left and left == right


@pytest.mark.parametrize("source", ["tfds_sized", "tfds_original"])
def test_prepared_records_without_tensorflow_are_one_line(source, tiny, tmp_path):
    words = (f"--config.source={source}", f"--config.data_dir={tmp_path}")
    done = run_python(MAIN, "--config", tiny["config"], "--workdir", tmp_path / "run", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "pip install 'tpr-jax[tensorflow]'" in done.stderr and "Python 3.13" in done.stderr


@pytest.mark.parametrize("missing", ["both", "tensorflow_alone"])
def test_the_builders_without_tensorflow_are_one_line(missing, tmp_path):
    block = BLOCK if missing == "both" else "import sys; sys.modules['tensorflow'] = None\n"
    main = "from tpr_jax.data.tfds_builders.__main__ import main; sys.exit(main())"
    done = run_python(
        main, "rstp_reid", "--manual_dir", tmp_path, "--data_dir", tmp_path / "out", block=block
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: TensorFlow Datasets needs packages")


@pytest.mark.parametrize("error", ["ImportError('libtensorflow_cc.so.2')", "TypeError('Descriptors')"])
def test_a_broken_tensorflow_counts_as_missing(error, tmp_path):
    """As after installing two versions over each other."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(f"raise {error}")
    code = "import importlib.util; from tpr_jax.data import pipeline, prefetch; print(prefetch.tensorflow())"
    code += "; print(importlib.util.find_spec('tensorflow'))"
    variables = {**_environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=600
    )
    assert (done.stdout, done.stderr) == ("None\nNone\n", "")


@has_tensorflow
@pytest.mark.parametrize("before", ["", "import keras; "])
def test_imports_no_keras_and_breaks_none(before, tmp_path):
    """And writes no file: TensorFlow's AutoGraph would leave a converted function's source behind."""
    code = f"{before}import sys; from tpr_jax.data import prefetch; tf = prefetch.tensorflow(); "
    code += "import numpy as np; load = lambda row: (row.astype(np.float32),); "
    code += "found = list(prefetch.in_order(load, np.ones((3, 4), int), [((4,), np.float32)], 1)); "
    code += "print('keras.src' in sys.modules, tf.keras.layers.Dense.__name__, len(found))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**_environment(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout == f"{bool(before)} Dense 3\n", done.stderr
    assert not list(tmp_path.iterdir())
