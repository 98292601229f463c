"""The command: a student that loads, and errors in one line."""

import pytest

from tpr_jax import from_pretrained
from tpr_jax.errors import UserError
from tpr_jax.shrink.__main__ import run


def words(out, *changes):
    given = {"--model": "clip-mini", "--vision_blocks": "3", "--text_blocks": "2", "--out": str(out)}
    given |= dict(zip(changes[::2], changes[1::2], strict=True))
    return ["shrink", *(word for pair in given.items() for word in pair)]


def test_writes_a_model(tmp_path, capsys):
    run(words(tmp_path / "student"))
    assert "3 blocks of the vision and 2 of the text tower" in capsys.readouterr().out
    student, whole = from_pretrained(tmp_path / "student"), from_pretrained("clip-mini")
    assert (student.config.vision_layers, student.config.text_layers) == (3, 2)
    assert student.tokenizer(["a red coat"]).tolist() == whole.tokenizer(["a red coat"]).tolist()
    assert student.config.image_size == whole.config.image_size and student.mean == whole.mean


def test_keeps_what_is_there(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="mine: already exists; name a new folder"):
        run(words(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        run(words(tmp_path / "out", "--model", str(tmp_path / "nowhere")))
    assert not (tmp_path / "out").exists()
