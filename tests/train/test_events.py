"""Event files for TensorBoard, read back by TensorFlow."""

import pytest

from tpr_jax.train.events import open_events, write_scalars


def test_tensorflow_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorflow")
    from tensorflow.compat.v1.train import summary_iterator

    file = open_events(tmp_path / "tensorboard")
    write_scalars(file, 0, {"loss": 0.5})
    write_scalars(file, 70_000, {"loss": -2.25, "routing/text/load/" + "x" * 200: 1e-8})
    (path,) = (tmp_path / "tensorboard").iterdir()  # flushed, though not closed
    first, *rest = list(summary_iterator(str(path)))
    file.close()
    assert first.file_version == "brain.Event:2"
    found = [(event.step, {v.tag: v.simple_value for v in event.summary.value}) for event in rest]
    assert found[0] == (0, {"loss": 0.5})
    assert found[1][0] == 70_000 and found[1][1]["loss"] == -2.25
    assert found[1][1]["routing/text/load/" + "x" * 200] == pytest.approx(1e-8)
    assert abs(rest[0].wall_time - first.wall_time) < 60


def test_each_opening_makes_a_new_file(tmp_path):
    for _ in range(2):
        open_events(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 2
