"""The measurement of the options of `--rerank`, at small sizes."""

import numpy as np
import pytest

from tpr_jax.bench import rerank as bench
from tpr_jax.errors import UserError
from tpr_jax.metrics import rerank

SMALL = bench.Size(queries=12, gallery=8, bank=20, identities=4, width=6)


def test_features_have_the_sizes():
    features = bench.random_features(SMALL)
    assert features.query.shape == (12, 6) and features.gallery.shape == (8, 6)
    assert features.bank.shape == (20, 6) and features.query.dtype == np.float32
    assert features.query_images.tolist() == [*range(8), *range(4)]
    assert (features.query_pids == features.gallery_pids[features.query_images]).all()
    assert len(set(features.gallery_pids.tolist())) == 4


@pytest.mark.parametrize("name", [bench.PLAIN, *rerank.OPTIONS])
def test_every_option_is_timed(name):
    found = bench.time_option(name, SMALL)
    assert found["seconds"] > 0 and found["peak_bytes"] > 1e7


def test_prints_a_row_per_option(monkeypatch, capsys):
    asked = []

    def stand_in(name, size):
        asked.append((name, size))
        return {"seconds": 1.25, "peak_bytes": 2.5e9}

    monkeypatch.setattr(bench, "time_in_subprocess", stand_in)
    flags = ["--queries=12", "--gallery=8", "--bank=20", "--identities=4", "--width=6"]
    bench.run(["rerank", "--options", "qb_norm,nnn", *flags])
    assert asked == [("plain", SMALL), ("nnn", SMALL), ("qb_norm", SMALL)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("12 captions, 8 images, 20 training captions, width 6")
    assert lines[2:] == [
        "|  | seconds | peak memory, GB |",
        "| --- | ---: | ---: |",
        *(f"| {name} | 1.2 | 2.50 |" for name in ("plain", "nnn", "qb_norm")),
    ]


def test_in_a_process():
    assert bench.time_in_subprocess("nnn", SMALL)["seconds"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bank=0"], "--bank 0: must be at least 1"),
        (["--options=nnm"], "--options 'nnm' is unknown: did you mean 'nnn'?"),
    ],
)
def test_wrong_arguments(flags, message):
    with pytest.raises(UserError) as error:
        bench.run(["rerank", *flags])
    assert str(error.value).startswith(message)
