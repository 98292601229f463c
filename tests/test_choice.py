"""Files without a chosen test are not imported, and no chosen test is lost by that."""

from pathlib import Path

import pytest

from tests.choice import check, chooses_unmarked, may_hold_tests
from tests.conftest import ROOT
from tests.long import LONG

MADE = {
    "test_plain.py": "def test_plain(): pass\n",
    "test_marked.py": "import pytest\n\n\n@pytest.mark.slow\ndef test_slow(): pass\n",
}


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    for name, text in MADE.items():
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in MADE}


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("", True),
        ("not torch and not slow", True),
        ("not (slow or torch)", True),
        ("slow or torch", False),
        ("(golden or everywhere and not long) and not torch", False),
        ("long and not torch and not slow", False),
    ],
)
def test_tells_whether_unmarked_tests_are_chosen(expression, chosen, files):
    assert chooses_unmarked(expression) == chosen
    assert may_hold_tests(files["test_plain.py"], expression) == chosen
    assert may_hold_tests(files["test_marked.py"], expression)


def test_files_of_long_tests_are_kept(files):
    """Their markers are not in the files but in a list."""
    for name in LONG:
        assert may_hold_tests(ROOT / "tests" / name.partition("::")[0], "long")
    assert not may_hold_tests(files["test_plain.py"], "long")


class Item:
    """Stands in for a slow test of a file."""

    def __init__(self, path: Path):
        self.path = path

    def get_closest_marker(self, name: str):
        return name == "slow"


def test_a_marker_from_another_file_is_an_error(files):
    """Such a test would be missing without a word where only marked tests are chosen."""
    check([Item(files["test_marked.py"])])
    with pytest.raises(pytest.UsageError, match=r"test_plain\.py has marked tests but names none"):
        check([Item(files["test_marked.py"]), Item(files["test_plain.py"])])
