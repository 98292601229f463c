"""Files of weights: round trips, and damaged files are reported."""

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
    # 1, -2 and 0.15625 in bfloat16, the upper 16 bits of IEEE single precision.
    data = struct.pack("<HHH", 0x3F80, 0xC000, 0x3E20) + struct.pack("<f", 7.0)
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    state = read_state(path)
    np.testing.assert_array_equal(state["w"], np.float32([[1], [-2], [0.15625]]))
    np.testing.assert_array_equal(state["x"], np.float32([7]))


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_reports_a_truncated_file(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    write_state(path, STATE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"w.safetensors.*not a complete"):
        read_state(path)


@pytest.mark.parametrize("seed", range(6))
def test_detects_a_flipped_bit(tmp_path, seed):
    """It is rejected in one line, or the arrays are the same because the bit is unused."""
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
    """A file of an older version has no checksums either."""
    path = tmp_path / "w.safetensors"
    save_file({"a": STATE["a"]}, path, metadata={"format": "np"})
    np.testing.assert_array_equal(read_state(path)["a"], STATE["a"])
    write_state(path, {"a": STATE["a"]})
    with safe_open(path, framework="np") as file:
        assert re.fullmatch("[0-9a-f]{64}", file.metadata()["tpr_jax_sha256"])
    save_file({"a": STATE["a"] + 1}, path, metadata={"tpr_jax_sha256": "0" * 64})
    with pytest.raises(UserError, match=r"w.safetensors: its weights differ from those that were saved"):
        read_state(path)


def test_missing_file_and_unknown_kind(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.safetensors: no such"):
        read_state(tmp_path / "nowhere.safetensors")
    odd = tmp_path / "w.h5"
    odd.write_bytes(b"x")
    with pytest.raises(UserError, match=r"w.h5: unknown kind"):
        read_state(odd)


def test_reports_the_remedy_if_torch_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"w.pt.*pip install torch"):
        read_state(path)


def test_failed_write_is_reported_and_keeps_the_old_file(tmp_path, monkeypatch):
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


def test_reports_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_state(tmp_path / "file" / "w.safetensors", STATE)


def by_hand(path, entries):
    """Writes a safetensors file by the format's definition: {name: (type, shape, bytes)}."""
    header, data = {}, b""
    for name, (kind, shape, raw) in entries.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


BRAIN = ("BF16", [2], struct.pack("<HH", 0x3F80, 0xC000))  # 1 and -2


@pytest.mark.parametrize(
    ("kind", "raw", "wanted"),
    [
        ("BOOL", b"\1\0\1", np.array([True, False, True])),
        ("U8", b"\1\2\xff", np.uint8([1, 2, 255])),
        ("I8", b"\1\2\xff", np.int8([1, 2, -1])),
        ("I16", struct.pack("<3h", 1, -2, 3), np.int16([1, -2, 3])),
        ("U16", struct.pack("<3H", 1, 2, 65535), np.uint16([1, 2, 65535])),
        ("I32", struct.pack("<3i", 1, -2, 3), np.int32([1, -2, 3])),
        ("U32", struct.pack("<3I", 1, 2, 3), np.uint32([1, 2, 3])),
        ("I64", struct.pack("<3q", 1, -2, 2**40), np.int64([1, -2, 2**40])),
        ("U64", struct.pack("<3Q", 1, 2, 2**63), np.uint64([1, 2, 2**63])),
        ("F16", struct.pack("<3e", 1, -2, 0.5), np.float16([1, -2, 0.5])),
        ("F32", struct.pack("<3f", 1, -2, 0.5), np.float32([1, -2, 0.5])),
        ("F64", struct.pack("<3d", 1, -2, 0.1), np.float64([1, -2, 0.1])),
        ("F8_E4M3", b"\x38\xc0\x30", np.float32([1, -2, 0.5])),  # 4-bit exponent, bias 7
        ("F8_E5M2", b"\x3c\xc0\x38", np.float32([1, -2, 0.5])),  # 5-bit exponent, bias 15
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_every_type_beside_bfloat16_and_alone(tmp_path, kind, raw, wanted, beside):
    entries = {"x": (kind, [3, 1], raw)} | ({"w": BRAIN} if beside else {})
    state = read_state(by_hand(tmp_path / "w.safetensors", entries))
    np.testing.assert_array_equal(state["x"], wanted[:, None])
    assert state["x"].dtype == wanted.dtype
    if beside:
        np.testing.assert_array_equal(state["w"], np.float32([1, -2]))


def test_scalars_and_nothing_beside_bfloat16(tmp_path):
    entries = {"w": BRAIN, "x": ("I64", [], struct.pack("<q", 7)), "none": ("F32", [0, 3], b"")}
    entries |= {"brain": ("BF16", [], BRAIN[2][2:]), "no_brain": ("BF16", [0], b"")}
    state = read_state(by_hand(tmp_path / "w.safetensors", entries))
    assert (state["x"].shape, int(state["x"]), float(state["brain"])) == ((), 7, -2)
    assert (state["none"].shape, state["no_brain"].shape) == ((0, 3), (0,))


def test_reports_an_unsupported_type(tmp_path):
    path = by_hand(tmp_path / "w.safetensors", {"w": ("F8_E8M0", [2], b"\1\2")})
    with pytest.raises(UserError, match=r"w.safetensors: weight 'w' is of type F8_E8M0; save it as float32"):
        read_state(path)


def test_writes_the_metadata_that_transformers_4_needs(tmp_path):
    """Reads the header by the format's definition; transformers 4 rejects a file without it."""
    write_state(tmp_path / "w.safetensors", STATE)
    content = (tmp_path / "w.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + length])["__metadata__"]["format"] == "pt"


def test_the_same_arrays_give_the_same_file(tmp_path):
    """The order of the metadata, which safetensors changes from call to call, is fixed."""
    state = {f"weight{i}.é": np.arange(i + 1, dtype=np.float32) for i in range(3)}
    written = set()
    for i in range(12):
        write_state(tmp_path / f"{i}.safetensors", state)
        written.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(written) == 1
    found = read_state(tmp_path / "0.safetensors")
    assert found.keys() == state.keys() and all(np.array_equal(found[name], state[name]) for name in state)
