"""Measurements in a process of their own, and the table that they fill row by row."""

import os
import subprocess

import pytest

from tpr_jax.bench import alone


def test_evaluates_in_another_process():
    assert alone.evaluate("os", "{'id': getpid(), 'name': path.join('a', 'b')}")["id"] != os.getpid()
    with pytest.raises(subprocess.CalledProcessError):
        alone.evaluate("os", "no_such_name")


def test_yields_each_row_when_it_is_measured():
    measured = []

    def rows():
        for name in ("first", "second"):
            measured.append(name)
            yield [name, "1"]

    lines = alone.table_lines(["", "seconds"], rows())
    assert [next(lines) for _ in range(3)] == ["|  | seconds |", "| --- | ---: |", "| first | 1 |"]
    assert measured == ["first"]
    assert list(lines) == ["| second | 1 |"] and measured == ["first", "second"]
