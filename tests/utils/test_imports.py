import importlib
import sys

import pytest

from tpr_jax.utils.imports import without


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package that can be imported, but has not been."""
    (tmp_path / "imported_for_a_test").mkdir()
    (tmp_path / "imported_for_a_test" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "imported_for_a_test"
    sys.modules.pop("imported_for_a_test", None)


def test_blocks_a_package_only_within(package):
    with without(package), pytest.raises(ImportError):
        importlib.import_module(package)
    importlib.import_module(package)


def test_unblocks_after_an_error(package):
    with pytest.raises(ZeroDivisionError), without(package):
        raise ZeroDivisionError
    importlib.import_module(package)


def test_keeps_what_is_imported(package):
    module = importlib.import_module(package)
    with without(package):
        assert importlib.import_module(package) is module
    assert sys.modules[package] is module
