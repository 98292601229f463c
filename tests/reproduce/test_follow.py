"""The progress of processes, by the files that they write."""

import json

import pytest

from tpr_jax.reproduce import follow


def test_shows_what_is_done_and_passes_the_answer_on(monkeypatch):
    updates, done = [], iter([3, 3, 7, 99])

    class Bar:
        n = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            updates.append(n)
            self.n += n

    monkeypatch.setattr(follow, "show", lambda total, name: Bar())
    monkeypatch.setattr(follow, "SECONDS_IN_A_LOG", 0.0)
    answers = iter([False, False, False, True])
    with follow.follow(lambda: next(answers), lambda: next(done), 10, "steps") as look:
        assert [look() for _ in range(4)] == [False, False, False, True]
    assert updates == [3, 0, 4, 3]  # never more than there is


@pytest.mark.parametrize(("terminal", "looks"), [(True, 1), (False, 0)])
def test_looks_rarely_where_each_look_prints_a_line(monkeypatch, terminal, looks):
    times, counted = iter([0.0, 100.0, 100.0, 100.0]), []
    monkeypatch.setattr(follow.sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(follow.time, "monotonic", lambda: next(times, 100.0))
    with follow.follow(lambda: False, lambda: counted.append(1) or 1, 10, "steps") as look:
        look()
    assert len(counted) == looks


def test_shows_nothing_without_a_total():
    def never() -> int:
        raise AssertionError

    with follow.follow(lambda: True, never, 0, "steps") as look:
        assert look() is True


def test_counts_steps_and_files(tmp_path):
    assert (follow.steps(tmp_path), follow.files(tmp_path / "none")) == (0, 0)
    rows = [{"step": 20}, {"step": 40, "loss": 1.0}, {"epoch": 1}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 6')
    (tmp_path / "a.json").write_text("{}")
    assert (follow.steps(tmp_path), follow.files(tmp_path)) == (40, 1)
