"""Replacing the project's address in the notebooks."""

import shutil

import pytest

from tests.conftest import ROOT
from tools.set_address import set_address
from tpr_jax.errors import UserError

OLD = (ROOT / "notebooks/address.txt").read_text().strip()


def test_replaces_the_address_everywhere_and_back(tmp_path):
    folder = shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    before = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    new = "https://github.com/some-one/search.people"
    assert len(set_address(new, folder)) == 6  # five notebooks and address.txt
    for path in folder.glob("*.ipynb"):
        text = path.read_text()
        assert OLD not in text and OLD.removeprefix("https://") not in text
        assert text.count("some-one/search.people") == before[path.name].count("tpr-jax/tpr_jax") >= 2
    assert (folder / "address.txt").read_text() == f"{new}\n"
    set_address(OLD, folder)
    assert {path.name: path.read_text() for path in folder.iterdir() if path.is_file()} == before
    assert set_address(OLD, folder) == []


@pytest.mark.parametrize(
    "address", ["tpr-jax/tpr_jax", "https://github.com/one", "https://github.com/a/b.git"]
)
def test_rejects_what_colab_cannot_open(address, tmp_path):
    with pytest.raises(UserError, match="is not an address such as"):
        set_address(address, tmp_path)
