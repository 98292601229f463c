"""Exports record their date; one that this JAX cannot read is reported in one line."""

import base64
import datetime
import json
import re
import zlib

import jax
import numpy as np
import pytest

from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.export import describe, jax_files, read_export
from tpr_jax.export.write import write_export

IDS = {"encode_text": np.array([[1, 2, 3] + [0] * 21], np.int32)}


def test_describes_the_date_of_the_export(tiny):
    import tpr_jax

    model, day = tpr_jax.from_pretrained(tiny["clip"]), datetime.date(2026, 2, 28)
    about = describe.describe(model, "float32", {"jax": {"versions": {"jax": "0.9.1"}}}, day)
    assert about["made_on"] == "2026-02-28"
    assert "Made on 2026-02-28; `jax/` by JAX 0.9.1" in describe.readme(about)
    about = describe.describe(model, "float32", {"onnx": {"versions": {}}}, day)
    assert "Made on 2026-02-28.\n" in describe.readme(about)


@pytest.fixture
def out(tiny, tmp_path):
    """An export of the tiny CLIP."""
    import tpr_jax

    write_export(tpr_jax.from_pretrained(tiny["clip"]), tmp_path / "out", platforms=("cpu",))
    return tmp_path / "out"


def made_by(out, version: str, made_on: str = "2026-01-15") -> None:
    """Changes the recorded JAX version of an export."""
    about = json.loads((out / "export.json").read_text())
    about["made_on"], about["formats"]["jax"]["versions"]["jax"] = made_on, version
    (out / "export.json").write_text(json.dumps(about))


def refuse(out, name="encode_text") -> str:
    """Returns the error message of reading or of the first call."""
    with pytest.raises(UserError) as error:
        read_export(out)[name](IDS[name])
    line = str(error.value)
    assert "\n" not in line and ".jaxexport: " in line
    return line


def test_reads_an_export(out, tiny):
    import tpr_jax

    encoders = read_export(str(out))
    assert set(encoders) == {"encode_image", "encode_text"}
    model = tpr_jax.from_pretrained(tiny["clip"])
    ids = model.tokenizer(["a man in a red coat"])
    np.testing.assert_allclose(
        encoders["encode_text"](ids), model.encode_texts(["a man in a red coat"]), atol=2e-6
    )
    with pytest.raises(Exception) as error:  # a user's mistake is raised unchanged
        encoders["encode_image"](np.zeros((1, 3, 3, 3), np.uint8))
    assert not isinstance(error.value, UserError)


# The export of `ids * 2` for int32 [b, 3] by JAX 0.7.2 (August 2025), compressed.
OF_2025 = """
eNqFVd1u3EQUntnZieOYxbW20RItxhMtIbGS2ElDFLb564+ybWiqtEQRgqqyvLuTrIv/8NhpAuIdeAQQr8IV4hG44IILxA1PgOCM
vUkacdGzOj7fmfM7Z7zjJSTpI/QY9dA9tIU+QR+jFeSgBfQhYuh99B66jW6hd9EkUsCrJHyvFFNIyt/pNf8M/BvwH7R0Q3+CvD1R
8QHwDxNyvQaWir4H+9ODvz9rHOV+P+SPDw69s1Vn9Y6zirBNMZ3BRCMtvdlqW535RXdtg/wo2rir6LqudTRd0yQDbmttHWATmGxq
EupSA2qWT8uytIow1XTS2tCVptJqN5u6UvuSWGbbNOfmDUKpSZSGboCRWgbGdJZ26Jw5g+k8tactas526OKyqqj7R3RZSvqTuUip
a7qUrhKyFtA1c4PSdYKtadzAhOybG00ptzt6gzx5anbNTXPb3CX0eLtBPv/CvG8+7BjmnqWpBKZhKWqtEnI+qqJQ85FGzX1znRKs
4lrNpujfMTVUG6ttm1DVhL4JNagCT5uoqk1ww8YzuP5BjeLnWMNK/R8Ip88wUeqnRGsTFZEHmBLF6NkKUQhu9pZV0qKUTO+tr2qQ
qNXDDRgGhVBMZKSu1AtiWLShtSCWGHAqD3CTKOoEAYi1HqRpUpU2emQaAhVNBwMkbMgEgDHF6K/GE/LphEFtOJzZtVlTsZrNOXVm
zu7ahtVanularWljRteMfhGEeRCjs1GYoCgZFiFHgyQWuR/n8HqgkyIeSJnxvMjiComRn3IJwXHg5zwGlurwIvajYOD1s8QfDnyR
e0HsDYNI2qICyqThhcSnPJfLPBZBEnsi+GacLEr9rIKFyJPIG/hhWKpj6eZR6gaytzB0+fkdJ71Ar/xzpxBceFVTaRJeREmWjgIR
oQj25MRF5EHePMihmLhey3gaBtAkehXknhf6UX/oo2BY6gtblb5ju9A3utTQVjWgHXSze9gQ4lmWZF7EhfBBq5rxheCZLIu815mf
pnzoQbseP0+TLPciH8Yu24eBwnBgVicJqjAqbWnRhw5Ll9Mw6fuhd3kwqI/SLDiDsaP9OC1yVtYTbJiwOMlZ5OeDEctHnF2PY3Dp
I1I+CE5g57Ixh+2dg57zITvzw4KznW22yk6SjF3tEAxZIO8LNt+fd9ixCOLTMvdJEobJa6m9rYq4y/zsVLxYeemUZrbNFvpLbM12
2GE/h61C+f/XgyioCL7frnzHTrIkupm0NN7s9EYRAGyhDLaXmMOehdwXnAnO2SjPU3HXdYfJQDhyukN+5vLYDWGeIner43Gv3ydn
lEdhp9SXr450uTxwUXYAe+dsyGEnoXAQmjxu0UWs7T3aPXxOBuQh5afGV1HS/brb7ZL72tGL3fsviUd8ZXNzU949dWB5Iw3SAr1J
l7YVuIEu8dYb+BfAMrRe3vIIvhvVurSvjWUfOB3H3Bp/R96Bp/y+TFVl3hr/K8RPVr416bd0I5dWRk2VOUuSKQBLS71cu4zFY1wv
fxW++msB/QeWKZp0
"""


def test_export_of_2025(out):
    """JAX 0.12 refuses it by itself; 0.10 reads it."""
    path = out / "jax/encode_text.jaxexport"
    path.write_bytes(zlib.decompress(base64.b64decode(OF_2025)))
    made_by(out, "0.7.2", "2025-08-12")
    if jax_files._numbers(jax.__version__) < [0, 11]:
        assert read_export(out)["encode_text"](np.array([[1, 2, 3]], np.int32)).tolist() == [[2, 4, 6]]
        return
    line = refuse(out)
    assert f"too old: made on 2025-08-12 by JAX 0.7.2, which JAX {jax.__version__} cannot read" in line
    assert "python -m tpr_jax.export" in line and "install jax==0.7.2" in line


@pytest.mark.parametrize("when", ["read", "called"])
def test_export_that_is_too_old(out, when, monkeypatch):
    def refused(*_):
        raise ValueError("older than the 6-month\nbackward-compatibility window")

    if when == "read":
        monkeypatch.setattr(jax_files.export, "deserialize", refused)
    else:
        monkeypatch.setattr(jax_files.export.Exported, "call", refused)
    made_by(out, "0.4.30")
    line = refuse(out)
    assert (
        "too old: made on 2026-01-15 by JAX 0.4.30" in line and f"JAX {jax.__version__} cannot read" in line
    )
    assert "(older than the 6-month backward-compatibility window)" in line
    assert "python -m tpr_jax.export" in line and "install jax==0.4.30" in line and "six months" in line


def test_export_that_is_too_new(out):
    made_by(out, "0.99.1")
    path = out / "jax/encode_text.jaxexport"
    path.write_bytes(re.sub(rb"StableHLO_v\d+\.\d+\.\d+", b"StableHLO_v9.9.9", path.read_bytes()))
    line = refuse(out)
    assert "by JAX 0.99.1" in line and "install jax>=0.99.1" in line and "too old" not in line


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_damaged_export(out, size):
    path = out / "jax/encode_text.jaxexport"
    path.write_bytes(path.read_bytes()[:size])
    assert "it may be damaged; export the model again" in refuse(out)


def test_export_without_description(out):
    (out / "export.json").unlink()
    (out / "jax/encode_text.jaxexport").write_bytes(b"nothing")
    assert "it may be damaged" in refuse(out)
    (out / "jax/encode_text.jaxexport").unlink()
    assert "No such file" in refuse(out)


def test_export_for_another_platform(tiny, tmp_path):
    import tpr_jax

    write_export(tpr_jax.from_pretrained(tiny["clip"]), tmp_path / "out", platforms=("tpu",))
    with pytest.raises(UserError, match=r"is for tpu, and JAX computes on cpu here.*--platforms"):
        read_export(tmp_path / "out")
