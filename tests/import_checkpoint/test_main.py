"""The command line of the import."""

import numpy as np
import pytest

from tests.clip_folder import OPEN_CLIP
from tpr_jax.errors import UserError
from tpr_jax.import_checkpoint import __main__ as command
from tpr_jax.import_checkpoint.convert import METHODS
from tpr_jax.weights.clip import load_clip


def run(*words):
    command.run(["import", *map(str, words)])


def test_imports_and_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    run(OPEN_CLIP, "--method", "open_clip", "--out", tmp_path / "out", "--image_mean", 0.1, 0.2, 0.3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"read: {OPEN_CLIP}" and lines[-1].startswith(f"wrote: {tmp_path / 'out'}")
    assert "32x32 pixels in patches of 8; vision 2 x 128 with 4 heads, text 2 x 96 with 3 heads" in lines[1]
    assert load_clip(tmp_path / "out")[0].image_mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["w.pt", "--out", "o"], "--method"),
        (["w.pt", "--method", "rde", "--out", "o"], "argument --method: 'rde' is unknown: "),
        (["w.pt", "--method", "clip"], "--out"),
        (["w.pt", "--method", "clip", "--out", "o", "--heads", "0", "1"], "heads="),
        (["w.pt", "--method", "clip", "--out", "o", "--image_std", "0", "1", "1"], "image_std="),
        (["w.pt", "--method", "clip", "--out", "o", "--image_size", "0", "1"], "image_size="),
        (["w.pt", "--method", "dm_adapter", "--out", "o", "--set", "top_k"], "must be NAME=VALUE"),
        (["nowhere.pt", "--method", "dm_adapter", "--out", "o"], "nowhere.pt: no such weights file"),
        (["nowhere.pt", "--method", "clip", "--out", "o"], "nowhere.pt: no such folder or file"),
    ],
)
def test_rejects_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(UserError, match=message) as error:
        run(*words)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_settings():
    assert command.parse_setting("top_k=2") == ("top_k", 2)
    assert command.parse_setting("router=blend") == ("router", "blend")
    assert command.parse_setting("use=('lora',)") == ("use", ("lora",))
    assert command.METHODS == METHODS


def test_reports_a_truncated_file(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(1000))
    content = (tmp_path / "w.npz").read_bytes()
    (tmp_path / "w.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"w.npz: not a complete .npz file"):
        run(tmp_path / "w.npz", "--method", "clip", "--out", tmp_path / "out")
