"""Lists as JSON lines and CSV: numbers of lines, columns, and what is told of a bad line."""

import pytest

from tpr_jax.data.lines import csv_lines, json_lines, read_text
from tpr_jax.errors import UserError


def test_json_lines_keep_their_numbers_and_say_what_is_wrong(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y"}\r\n\n[1]\n{"a"\n'.encode())
    (first, _, fields), (third, _, listed), (fourth, line, broken) = json_lines(path)
    assert (first, third, fourth, line) == (1, 3, 4, '{"a"')
    assert fields == {"a": "x\u2028y"}
    assert listed == "must be an object with fields, not list" and broken.startswith("not JSON (")


def test_csv_lines_keep_their_numbers_and_say_what_is_wrong(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfa, b\r\n1,"x\r\ny"\r\n\r\n2\r\n')
    told = "has 1 fields, the first line 2: mend its commas"
    assert csv_lines(path, lambda header: None) == (["a", "b"], [(3, ["1", "x\r\ny"]), (5, told)])
    path.write_text('a,b\n1,"2')
    with pytest.raises(UserError, match="line 2 is not CSV"):
        csv_lines(path, lambda header: None)

    def refuse(header):
        raise UserError(f"refused {header}")

    with pytest.raises(UserError, match="refused"):  # before the broken line is told
        csv_lines(path, refuse)


def test_text_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        read_text(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        read_text(tmp_path / "latin")
