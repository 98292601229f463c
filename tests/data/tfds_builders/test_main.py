"""The TFDS builders on small folders in the exact layouts: their records hold what training reads."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import benchmark_folders
from tpr_jax.data.images.read import read_image, resize
from tpr_jax.data.records import load_all

pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")
from tpr_jax.data.tfds_builders import __main__ as command  # noqa: E402
from tpr_jax.data.tfds_builders import common  # noqa: E402


def rows(out, dataset, config, split):
    builder = tfds.builder_from_directory(str(out / dataset / config / common.VERSION))
    read = list(tfds.as_numpy(builder.as_dataset(split=split)))
    return builder, {row["file"].decode(): row for row in read}


@pytest.mark.parametrize("dataset", list(command.BUILDERS))
def test_sized_records_hold_what_training_reads(dataset, tmp_path, capsys):
    folder = benchmark_folders.ALL[dataset](tmp_path / "copy")
    flags = [dataset, "--manual_dir", str(folder), "--data_dir", str(tmp_path / "out")]
    assert command.main(flags) == 0
    assert f"written: {tmp_path / 'out' / dataset / 'sized' / common.VERSION}" in capsys.readouterr().out
    splits = load_all(folder, dataset)
    for split, records in splits.items():
        builder, found = rows(tmp_path / "out", dataset, "sized", split)
        assert sorted(builder.info.splits) == sorted(splits)
        assert len(found) == len(records.image_paths) == builder.info.splits[split].num_examples
        for i, path in enumerate(records.image_paths):
            row = found[str(Path(path).relative_to(folder))]
            np.testing.assert_array_equal(row["image"], resize(read_image(path), (384, 128)))
            assert [text.decode() for text in row["captions"]] == records.captions[i]
            assert row["pid"] == records.pids[i]


def test_original_records_hold_the_files_to_the_byte(tmp_path):
    folder = benchmark_folders.rstp_reid(tmp_path / "copy")
    out = tmp_path / "out"
    flags = ["rstp_reid", "--manual_dir", str(folder), "--data_dir", str(out), "--config", "original"]
    assert command.main(flags) == 0
    _, found = rows(out, "rstp_reid", "original", "train")
    assert len(found) == 20
    for name, row in found.items():
        assert row["image"] == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("cuhk_pedes", "reid_raw.json"),
        ("icfg_pedes", "ICFG-PEDES.json"),
        ("rstp_reid", "data_captions.json"),
        ("ufine6926", "sign the license"),
    ],
)
def test_instructions_say_how_to_obtain_the_data(dataset, words):
    module = importlib.import_module(f"tpr_jax.data.tfds_builders.{dataset}")
    builder = getattr(module, command.BUILDERS[dataset])
    text = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert words in text and "on request" in text and "--manual_dir" in text
    assert builder.name == dataset
    assert [config.name for config in builder.BUILDER_CONFIGS] == ["sized", "original"]


def test_rejects_an_incomplete_copy(tmp_path, capsys):
    folder = benchmark_folders.rstp_reid(tmp_path / "copy")
    path = folder / "imgs" / json.loads((folder / "data_captions.json").read_text())[3]["img_path"]
    path.write_bytes(b"text")
    for config in ("sized", "original"):
        flags = ["rstp_reid", "--manual_dir", str(folder), "--data_dir", str(tmp_path / "out")]
        assert command.main([*flags, "--config", config]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and str(path) in line
    (folder / "data_captions.json").unlink()
    assert command.main(flags) == 2
    assert "data_captions.json: no such file" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(f"rstp_reid/*/{common.VERSION}"))


@pytest.mark.parametrize("workers", [1, 2])
def test_beam_builds_the_same_records(workers, tmp_path, capsys):
    """Requires Apache Beam: `make test-beam`."""
    pytest.importorskip("apache_beam")
    folder = benchmark_folders.rstp_reid(tmp_path / "copy")
    flags = ["rstp_reid", "--manual_dir", str(folder)]
    assert command.main([*flags, "--data_dir", str(tmp_path / "alone")]) == 0
    assert command.main([*flags, "--data_dir", str(tmp_path / "out"), "--beam", str(workers)]) == 0
    for split in ("train", "val", "test"):
        _, alone = rows(tmp_path / "alone", "rstp_reid", "sized", split)
        _, found = rows(tmp_path / "out", "rstp_reid", "sized", split)
        assert found.keys() == alone.keys()
        for name, row in found.items():
            for key in ("image", "captions", "pid", "row"):
                np.testing.assert_array_equal(row[key], alone[name][key])
    path = folder / "imgs" / json.loads((folder / "data_captions.json").read_text())[3]["img_path"]
    path.write_bytes(b"text")
    capsys.readouterr()
    assert command.main([*flags, "--data_dir", str(tmp_path / "bad"), "--beam", str(workers)]) == 2
    told = capsys.readouterr().err
    assert f"error: {path}: not an image that can be read: replace or remove it\n" in told, told


def test_missing_beam_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    folder = benchmark_folders.rstp_reid(tmp_path / "copy")
    flags = ["rstp_reid", "--manual_dir", str(folder), "--data_dir", str(tmp_path / "out"), "--beam", "2"]
    assert command.main(flags) == 2
    assert capsys.readouterr().err.startswith(
        "error: --beam needs Apache Beam: pip install -r requirements-beam"
    )


def test_tfds_build(tmp_path):
    """Runs the `tfds` program, which requires apache-beam and mlcroissant."""
    pytest.importorskip("apache_beam")
    pytest.importorskip("mlcroissant")
    folder = benchmark_folders.rstp_reid(tmp_path / "copy")
    script = Path(command.__file__).parent / "rstp_reid.py"
    code = "from tensorflow_datasets.scripts.cli.main import launch_cli; launch_cli()"
    arguments = ["build", str(script), "--manual_dir", str(folder), "--data_dir", str(tmp_path / "out")]
    root = Path(command.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600, cwd=root
    )
    assert done.returncode == 0, done.stderr
    for config in ("sized", "original"):
        assert len(rows(tmp_path / "out", "rstp_reid", config, "test")[1]) == 15
