"""Files of weights: whole ones come back as written, damaged ones are named."""

import json
import os
import re
import struct
import sys

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tpr_jax.errors import UserError
from tpr_jax.weights import files
from tpr_jax.weights.files import read_state, write_state

STATE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2.0], np.float16),
    "scalar": np.float32(4.5),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}


def test_round_trip_keeps_values_types_and_shapes(tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    write_state(path, STATE)
    back = read_state(path)
    assert set(back) == set(STATE)
    for name, array in STATE.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
    assert os.listdir(path.parent) == ["w.safetensors"]


def test_bfloat16_is_read_as_float32(tmp_path):
    header = json.dumps(
        {
            "w": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]},
            "x": {"dtype": "F32", "shape": [1], "data_offsets": [6, 10]},
        }
    ).encode()
    # 1, -2 and 0.15625 in bfloat16, by their definition as the upper 16 bits of IEEE single precision.
    data = struct.pack("<HHH", 0x3F80, 0xC000, 0x3E20) + struct.pack("<f", 7.0)
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    state = read_state(path)
    np.testing.assert_array_equal(state["w"], np.float32([[1], [-2], [0.15625]]))
    np.testing.assert_array_equal(state["x"], np.float32([7]))


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_a_cut_off_file_is_named(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    write_state(path, STATE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="w.safetensors.*not a whole"):
        read_state(path)


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_never_read_as_another_number(tmp_path, seed):
    """Refused in one line, or the same as before where the bit says nothing."""
    path = tmp_path / "w.safetensors"
    write_state(path, STATE)
    whole, refused = path.read_bytes(), 0
    start = 8 + int.from_bytes(whole[:8], "little")
    drawn = np.random.default_rng(seed).integers(0, 8 * len(whole), 60).tolist()
    for position in (8 * start, 8 * len(whole) - 1, *drawn):
        content = bytearray(whole)
        content[position // 8] ^= 1 << position % 8
        path.write_bytes(bytes(content))
        try:
            found = read_state(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
            continue
        assert position < 8 * start  # every bit of the arrays counts
        assert set(found) == set(STATE)
        for name, array in STATE.items():
            np.testing.assert_array_equal(found[name], array)
    assert refused > 2


def test_a_file_of_other_tools_needs_no_checksum(tmp_path):
    """Or of an older version."""
    path = tmp_path / "w.safetensors"
    save_file({"a": STATE["a"]}, path, metadata={"format": "np"})
    np.testing.assert_array_equal(read_state(path)["a"], STATE["a"])
    write_state(path, {"a": STATE["a"]})
    with safe_open(path, framework="np") as file:
        assert re.fullmatch("[0-9a-f]{64}", file.metadata()["tpr_jax_sha256"])
    save_file({"a": STATE["a"] + 1}, path, metadata={"tpr_jax_sha256": "0" * 64})
    with pytest.raises(UserError, match="w.safetensors: its weights are not those that were saved"):
        read_state(path)


def test_missing_file_and_unknown_kind(tmp_path):
    with pytest.raises(UserError, match="nowhere.safetensors: no such"):
        read_state(tmp_path / "nowhere.safetensors")
    odd = tmp_path / "w.h5"
    odd.write_bytes(b"x")
    with pytest.raises(UserError, match="w.h5: unknown kind"):
        read_state(odd)


def test_without_torch_the_remedy_is_named(tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="w.pt.*pip install torch"):
        read_state(path)


def test_trouble_in_safetensors_words_is_told_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_state(path, STATE)
    before = path.read_bytes()

    def full_disk(state, temporary, metadata):
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full_disk)
    with pytest.raises(UserError, match=r"w.safetensors: cannot be written \(.*No space left.*free space"):
        write_state(path, STATE)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_state(tmp_path / "file" / "w.safetensors", STATE)
