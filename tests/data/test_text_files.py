"""JSON lines and CSV files: line numbers, columns, and reasons for invalid lines."""

import json

import pytest

from tpr_jax.data.text_files import csv_lines, json_lines, json_records, read_text, rename_known
from tpr_jax.errors import UserError


def test_json_lines_have_numbers_and_reasons(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y"}\r\n\n[1]\n{"a"\n'.encode())
    (first, _, fields), (third, _, listed), (fourth, line, broken) = json_lines(path)
    assert (first, third, fourth, line) == (1, 3, 4, '{"a"')
    assert fields == {"a": "x\u2028y"}
    assert listed == "must be an object with fields, not list" and broken.startswith("not JSON (")


def test_csv_lines_have_numbers_and_reasons(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfa, b\r\n1,"x\r\ny"\r\n\r\n2\r\n')
    told = "has 1 fields, the first line 2: fix its commas, or put texts with commas in quotes"
    assert csv_lines(path, lambda header: None) == (["a", "b"], [(2, ["1", "x\r\ny"]), (5, told)])
    path.write_text('a,b\n1,"2')
    with pytest.raises(UserError, match="line 2 is not CSV"):
        csv_lines(path, lambda header: None)

    path.write_text('a,b\n1,"x\ny"\n2,"never closed\n3,z\n')
    with pytest.raises(UserError, match="line 4 is not CSV"):  # where the record begins
        csv_lines(path, lambda header: None)

    def refuse(header):
        raise UserError(f"refused {header}")

    with pytest.raises(UserError, match="refused"):  # before the broken line is reported
        csv_lines(path, refuse)


def test_rejects_unreadable_text(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        read_text(tmp_path / "none")
    (tmp_path / "mac").write_bytes(b"caf\x8e")
    with pytest.raises(UserError, match=r"mac: not UTF-8 \('utf-8' codec .*\): save it in UTF-8"):
        read_text(tmp_path / "mac")


def table(tmp_path, content: str | bytes):
    """Returns the cells of the rows; for an invalid row, the reason."""
    path = tmp_path / "list.csv"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    header, rows = csv_lines(path, lambda header: None)
    return header, [cells for _, cells in rows]


BREAKS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029\0"


@pytest.mark.parametrize("mark", BREAKS, ids=ascii)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
def test_splits_at_line_ends_only(tmp_path, mark, end):
    lines = ["a,b", f"1,x{mark}y", f'2,"x{mark}, y"', "3,z"]
    cells = [["1", f"x{mark}y"], ["2", f"x{mark}, y"], ["3", "z"]]
    assert table(tmp_path, end.join(lines) + end) == (["a", "b"], cells)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=ascii)
def test_replaces_a_carriage_return_within_a_line(tmp_path, end):
    assert table(tmp_path, end.join(["a,b", "1,x\ry", '2,"x\ry"', "3,z\r"])) == (
        ["a", "b"],
        [["1", "x y"], ["2", "x y"], ["3", "z"]],
    )


def test_line_ends_written_twice(tmp_path):
    """Windows line ends that were converted twice."""
    assert table(tmp_path, "a,b\r\r\n1,x\r\r\n2,y\r\r\n") == (["a", "b"], [["1", "x"], ["2", "y"]])


@pytest.mark.parametrize("blank", [" ", "  ", "\t", "\u00a0", "\u3000", " \t"], ids=ascii)
def test_blanks_around_names_and_cells(tmp_path, blank):
    cells = ['"x, ""y"""', "7", '""', '" a b "', "t"]
    padded = ",".join(blank + cell + blank for cell in cells)
    names = ",".join(f"{blank}{name}{blank}" for name in "abcd") + f',{blank}"e"{blank}'
    assert table(tmp_path, f"{names}\n{padded}\n") == (list("abcde"), [['x, "y"', "7", "", "a b", "t"]])


def test_rejects_misplaced_quotes(tmp_path):
    for row in ('"red" coat,1', '"red,1', '"a""b'):
        with pytest.raises(UserError, match="line 2 is not CSV"):
            table(tmp_path, f"a,b\n{row}\n")
    assert table(tmp_path, 'a,b\na 5" heel,say "hi"\n')[1] == [['a 5" heel', 'say "hi"']]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(tmp_path, separator):
    rows = [["a", "b"], ["red, blue", "1"], ['"x; \ty"', "2"]]
    found = table(tmp_path, "\n".join(separator.join(row) for row in rows))
    assert found == (["a", "b"], [["red, blue", "1"], ["x; \ty", "2"]])


def test_skips_empty_lines(tmp_path):
    assert table(tmp_path, "a,b\n\n , \n,\n  \n1,2\n,,,\n") == (["a", "b"], [["1", "2"]])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_reads_utf_16(tmp_path, encoding, separator, capsys):
    mark = "" if encoding == "utf-16" else "\ufeff"
    text = f"{mark}a,b\r\n1,caf\u00e9\r\n".replace(",", separator)
    assert table(tmp_path, text.encode(encoding)) == (["a", "b"], [["1", "caf\u00e9"]])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_tells_an_assumed_encoding(tmp_path, capsys, kind):
    path = tmp_path / f"list.{kind}"
    path.write_bytes("a\ncaf\u00e9\n".encode("cp1252") if kind == "csv" else b'{"a": "caf\xe9"}')
    for _ in range(2):
        if kind == "csv":
            assert csv_lines(path, lambda header: None)[1] == [(2, ["caf\u00e9"])]
        else:
            assert [fields for *_, fields in json_lines(path)] == [{"a": "caf\u00e9"}]
    wanted = (
        f"note: {path}: read as Windows-1252, because it is not UTF-8; if letters are wrong, save it in UTF-8"
    )
    assert capsys.readouterr().err == f"{wanted}\n"


def test_the_separator_that_the_first_line_has_most_of(tmp_path):
    found = table(tmp_path, 'a;"b, c, d, e";f,g\n1,5;2;3\n')
    assert found == (["a", "b, c, d, e", "f,g"], [["1,5", "2", "3"]])


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_a_declared_separator(tmp_path, first):
    path = tmp_path / "list.csv"
    path.write_bytes(f"{first}a,b;c\n1;2\n3\n".encode())
    header, ((second, cells), (third, reason)) = csv_lines(path, lambda header: None)
    assert (header, cells, second, third) == (["a,b", "c"], ["1", "2"], 3, 4) and "has 1 fields" in reason
    path.write_text(f'{first}a;c\n1;"2')
    with pytest.raises(UserError, match="line 3 is not CSV"):
        csv_lines(path, lambda header: None)


def test_renames_columns_that_differ_in_case():
    known = ("image", "x")
    assert rename_known(["Image", "X", "Note"], known) == ["image", "x", "Note"]
    assert rename_known(["Image", "image", "NOTE"], known) == ["image", "image", "NOTE"]  # a duplicate


@pytest.mark.parametrize("mark", "\u200b\u2060\ufeff", ids=ascii)
def test_renames_columns_with_invisible_characters(mark):
    names = [f"{mark}Image ", f"x{mark}", f"no{mark}te"]
    assert rename_known(names, ("image", "x")) == ["image", "x", f"no{mark}te"]


def test_rejects_a_field_named_twice(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('{"a": 1, "b": 2, "a": 1}\n{"a": 1, "b": {"c": 1}}\n')
    (_, _, twice), (_, _, fields) = json_lines(path)
    assert twice == "names field 'a' twice: leave one out" and fields == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize("mark", BREAKS + "\t", ids=ascii)
def test_json_lines_with_breaks_within_a_text(tmp_path, mark):
    path = tmp_path / "list.jsonl"
    path.write_text(f'{{"a": "x{mark}y"}}\n{{"a": "z"}}\n', encoding="utf-8")
    assert [fields for *_, fields in json_lines(path)] == [{"a": f"x{mark}y"}, {"a": "z"}]


def test_json_lines_of_an_old_mac(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_bytes(b'{"a": 1}\r{"a": 2}\r')
    assert [(number, fields) for number, _, fields in json_lines(path)] == [(1, {"a": 1}), (2, {"a": 2})]


def test_rejects_a_list_with_a_number_of_thousands_of_digits(tmp_path):
    path = tmp_path / "reid_raw.json"
    path.write_text(f'[{{"id": {"1" * 5000}}}]')
    with pytest.raises(UserError, match=r"reid_raw.json: not JSON \(Exceeds the limit"):
        list(json_records(path))


@pytest.mark.parametrize("indent", [None, 1])
def test_rejects_one_list_instead_of_lines(tmp_path, indent):
    path = tmp_path / "list.jsonl"
    path.write_text("\n" + json.dumps([{"a": 1}, {"a": 2}], indent=indent))
    with pytest.raises(UserError, match=r"list.jsonl: is one JSON list: write one object per line"):
        list(json_lines(path))
    path.write_text('[1]\n{"a": 2}\n')
    assert [number for number, *_ in json_lines(path)] == [1, 2]  # a line that is a list is told by itself
