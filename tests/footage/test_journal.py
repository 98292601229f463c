import pytest

from tpr_jax.footage import journal
from tpr_jax.footage.detections import make_detections

HEADER = {"video": "a"}


def line(frame):
    found = make_detections([[1.25, 2, 3, 4]], [0.12345678], [frame])
    return journal.Line(
        frame, frame / 10, frame / 10 + 0.5, (320, 240), journal.rounded(found), [0.5], [[1, 2]], 7
    )


def write(path, frames, resume=False):
    writer = journal.Writer(path, HEADER, resume)
    for frame in frames:
        writer.add(line(frame))
    writer.close()


def same(a, b):
    return (
        a[:4] == b[:4]
        and a[5:] == b[5:]
        and all((x == y).all() for x, y in zip(a.found, b.found, strict=True))
    )


def test_returns_what_was_written_and_goes_on(tmp_path):
    path = tmp_path / "x" / "journal.jsonl"
    write(path, [0, 1])
    write(path, [2], resume=True)
    lines = journal.read(path, HEADER)
    assert all(same(a, line(b)) for a, b in zip(lines, [0, 1, 2], strict=True))


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_half_a_line_of_a_killed_process_is_removed(tmp_path, cut):
    path = tmp_path / "journal.jsonl"
    write(path, [0, 1])
    path.write_bytes(path.read_bytes()[:-cut])
    assert [one.frame for one in journal.read(path, HEADER)] == [0]
    write(path, [1], resume=True)
    assert [one.frame for one in journal.read(path, HEADER)] == [0, 1]


def test_a_journal_of_another_video_or_none_has_no_frames(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert journal.read(path, HEADER) == []
    write(path, [0])
    assert journal.read(path, {"video": "b"}) == []
