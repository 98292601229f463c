"""The JSON files of a model's folder; unreadable ones are reported."""

import pytest

from tpr_jax.errors import UserError
from tpr_jax.weights.json_files import read_json


def test_reads_an_object(tmp_path):
    (tmp_path / "a.json").write_text('{"ä": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[1]", "does not hold a JSON object"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (None, "no such file"),
    ],
)
def test_reports_damage_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"a.json: {message}") as error:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value)
