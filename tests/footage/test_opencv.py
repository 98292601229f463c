import sys

import pytest

from tpr_jax.errors import UserError
from tpr_jax.footage.opencv import opencv


def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install 'opencv-python-headless>=4.10,<5'"):
        opencv()
