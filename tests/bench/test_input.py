"""The input pipeline benchmark: its images, the plain loader, and a short run."""

import os
from multiprocessing import shared_memory

import numpy as np
import pytest
from PIL import Image

from tpr_jax.bench import input as bench_input
from tpr_jax.errors import UserError
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD


def test_writes_images_of_the_benchmarks_size(tmp_path):
    records = bench_input.write_images(tmp_path, 30)
    assert sorted(os.listdir(tmp_path)) == [f"{row:05d}.jpg" for row in range(30)]
    assert [os.path.basename(path) for path in records.image_paths] == sorted(os.listdir(tmp_path))
    sizes = np.array([Image.open(path).size for path in records.image_paths])
    assert (abs(sizes.mean(0) - (100, 260)) < (8, 25)).all() and len(set(sizes[:, 0].tolist())) > 10
    bytes_each = np.mean([os.path.getsize(path) for path in records.image_paths])
    assert 5_000 < bytes_each < 20_000
    again = tmp_path / "again"
    again.mkdir()
    bench_input.write_images(again, 3)
    assert (again / "00002.jpg").read_bytes() == (tmp_path / "00002.jpg").read_bytes()


def test_plain_loader_augments_and_normalizes(tmp_path):
    color = np.array([200, 120, 40])
    Image.new("RGB", (100, 260), tuple(color.tolist())).save(tmp_path / "a.png")
    name = bench_input.plain_batch([str(tmp_path / "a.png")] * 40, (0, 1))
    memory = shared_memory.SharedMemory(name)
    memory.unlink()
    batch = np.ndarray((40, 384, 128, 3), np.float32, memory.buf).copy()
    memory.close()
    back = np.rint(255 * (batch * np.array(IMAGE_STD) + IMAGE_MEAN))
    erased = (abs(batch - np.array(IMAGE_MEAN)) < 1e-6).all(-1)
    kinds = {"image": (back == color).all(-1), "padding": (back == 0).all(-1), "erased": erased}
    assert np.all(sum(kinds.values()) == 1)  # every pixel is one of the three
    assert 8 < kinds["erased"].any((1, 2)).sum() < 32 and kinds["padding"].any((1, 2)).sum() > 30
    assert kinds["padding"].sum((1, 2)).max() <= 10 * (384 + 128)


def test_table_has_medians_and_the_median_ratio():
    timings = {
        "ours": [(100.0, 0.002), (300.0, 0.004), (200.0, 0.003)],
        "plain": [(50.0, 0.005), (100.0, 0.005), (400.0, 0.006)],
    }
    timings = {name: [bench_input.EpochTiming(*pair) for pair in pairs] for name, pairs in timings.items()}
    heading, _, line = bench_input.render_table(timings, 2).splitlines()
    assert "processes, Pillow and NumPy" in heading
    assert line == "| 2 | 200 | 100 | 2.00 (0.50 to 3.00 in 3 epochs) | 3.00 and 5.00 |"


def test_short_run(capsys):
    bench_input.run(["input", "--images", "128", "--repeats", "1", "--against", "plain"])
    line = capsys.readouterr().out.splitlines()[-1]
    workers, ours, plain, _, busy = (cell.strip() for cell in line.strip("|").split("|"))
    assert workers == "2" and float(ours) > 0 and float(plain) > 0
    if os.path.exists("/proc/self/stat"):
        assert all(0 < float(ms) < 200 for ms in busy.split(" and "))


def test_rejects_fewer_images_than_a_batch():
    with pytest.raises(UserError, match="--images 100 is less than a batch of 128"):
        bench_input.run(["input", "--images", "100"])
