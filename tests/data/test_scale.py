"""A run over 40,000 images does not increase the memory of the process."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tpr_jax.data import mini_pedes, pipeline
from tpr_jax.data.records import load_records
from tpr_jax.train import loop

PICTURES, TEST, SIZE, BATCH = 40_000, 200, (128, 64), 32
# The first line of the log and the first checkpoint (after 40 steps) load what they need, once.
STEPS, WARM = 140, 60
BOUND = 30 * 2**20


def write_copies(folder: Path) -> None:
    """Writes MiniPEDES' images, reduced and encoded again under 40,000 names, in CUHK-PEDES' format."""
    (folder / "imgs").mkdir(parents=True)
    source = load_records(mini_pedes.bundled_dir(), "train")
    small = []
    for path in source.image_paths:
        with Image.open(path) as image:
            small.append(image.resize((SIZE[1] // 2, SIZE[0] // 2)))
    entries = []
    for row in range(PICTURES):
        file, name = io.BytesIO(), f"{row:05d}.jpg"
        small[row % len(small)].save(file, "JPEG", quality=60 + row % 37)
        (folder / "imgs" / name).write_bytes(file.getvalue())
        captions = source.captions[row % len(small)][:2]
        split = "test" if row < TEST else "train"
        entries.append({"split": split, "captions": captions, "file_path": name, "id": row // 4 + 1})
    (folder / "reid_raw.json").write_text(json.dumps(entries))


def resident_bytes() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc")
def test_memory_stays_flat_over_forty_thousand_pictures(make_config, tmp_path, monkeypatch):
    write_copies(tmp_path / "data")
    settings = {"image_size": SIZE, "batch_size": BATCH, "total_steps": STEPS, "checkpoint_every": 40}
    config = make_config(data_dir=tmp_path / "data", eval_every=0, log_every=20, pad=8, **settings)
    resident, plain = [], pipeline.train_input

    def watched(*args, **kwargs):
        batches = plain(*args, **{**kwargs, "cache": False})  # as with pictures that do not fit into memory

        def sampled(*epoch):
            for batch in batches(*epoch):
                resident.append(resident_bytes())
                yield batch

        return sampled

    monkeypatch.setattr(pipeline, "train_input", watched)
    results = loop.train(config, tmp_path / "run")
    assert results["steps"] == STEPS == len(resident)
    assert results["data"]["counts"]["train"]["images"] == PICTURES - TEST
    # Were but one batch of pictures kept at each step, this would see it.
    assert (STEPS - WARM) * BATCH * np.prod(SIZE) * 3 > 1.5 * BOUND
    assert max(resident[WARM:]) - resident[WARM] < BOUND, [size // 2**20 for size in resident]
