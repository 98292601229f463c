"""Lines of finished work: resumed, cut off, damaged, of something else, and a full disk."""

import os

import pytest

from tpr_jax.errors import UserError
from tpr_jax.utils import line_log

HEADER = {"of": "a"}


def write(path, *lines, resume=False):
    log = line_log.LineLog(path, HEADER, resume)
    for line in lines:
        log.append(line)
    log.close()


def test_lines_are_read_and_continued(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    assert line_log.read(path, HEADER) == []
    write(path, {"n": 1}, {"n": 2})
    write(path, {"n": 3}, resume=True)
    assert line_log.read(path, HEADER) == [{"n": 1}, {"n": 2}, {"n": 3}]


@pytest.mark.parametrize("damage", [b'{"n": 2', b'{"n": 2\n{"n": 3}\n', b"\xff\n"])
def test_what_follows_the_last_whole_line_is_removed(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    write(path, {"n": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    assert line_log.read(path, HEADER) == [{"n": 1}] and path.read_bytes() == whole


def test_lines_of_something_else_do_not_count(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, {"n": 1})
    assert line_log.read(path, {"of": "b"}) == []
    write(path, {"n": 2})
    assert line_log.read(path, HEADER) == [{"n": 2}]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written"):
        write(tmp_path / "file" / "log.jsonl")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line():
    log = line_log.LineLog.__new__(line_log.LineLog)
    log._path, log._file = "log.jsonl", open("/dev/full", "wb")  # noqa: SIM115 closed below
    with pytest.raises(UserError, match=r"no space left on the disk of log\.jsonl"):
        log.append({"n": 1})
    with pytest.raises(OSError, match="No space left"):
        log.close()


@pytest.mark.parametrize("damage", [b"", b'{"n": 3', b'{"n": 3\n{"n": 4}\n'])
def test_rewrites_lines_and_removes_what_is_damaged(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    write(path, {"n": 1}, {"n": 2})
    path.write_bytes(path.read_bytes() + damage)
    line_log.rewrite(path, lambda line: None if line["n"] == 1 else {"n": 10 * line["n"]})
    assert path.read_text() == '{"of": "a"}\n{"n": 20}\n'
    status = path.stat()
    line_log.rewrite(path, lambda line: line)
    assert path.stat() == status  # nothing was written


def test_rewrites_a_file_that_was_killed_before_its_header(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"")
    line_log.rewrite(tmp_path / "log.jsonl", lambda line: None)
    assert (tmp_path / "log.jsonl").read_bytes() == b""
