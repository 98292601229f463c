"""The list of long tests names tests that exist."""

import ast

from tests.conftest import ROOT
from tests.long import LONG, QUICK


def test_every_entry_is_a_test():
    defined = set()
    for file in {entry.partition("::")[0] for entry in LONG}:
        path = ROOT / "tests" / file
        if path.exists():
            nodes = ast.parse(path.read_text()).body
            defined |= {f"{file}::{node.name}" for node in nodes if isinstance(node, ast.FunctionDef)}
    assert LONG - defined == set(), "renamed or gone: follow them in tests/long.py"


def test_what_stays_quick_is_one_of_a_long_test():
    assert {entry.partition("[")[0] for entry in QUICK} <= LONG
