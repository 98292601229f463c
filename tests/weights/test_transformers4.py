"""transformers 4 with PyTorch loads a saved plain CLIP, in a separate environment."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tpr_jax
from tests.saved_models import features, trained, write_backbone
from tests.tiny_clip import batch, quick_compilation  # noqa: F401
from tpr_jax.models import methods

pytestmark = pytest.mark.torch

# The oldest version that requirements.txt allows.
NEEDS = ("torch==2.13.0", "transformers==4.46.3", "numpy<2.4", "pillow")
READ = """
import json, sys
import numpy, torch, transformers
folder, arrays, out = sys.argv[1:]
model, info = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
assert transformers.__version__.startswith("4."), transformers.__version__
given = numpy.load(arrays)
with torch.no_grad():
    images = torch.tensor(given["images"].transpose(0, 3, 1, 2))
    found = [model.get_image_features(images), model.get_text_features(torch.tensor(given["ids"]).long())]
numpy.savez(out, image=found[0].numpy(), text=found[1].numpy())
processor = transformers.CLIPImageProcessor.from_pretrained(folder)
print(json.dumps({**{k: len(info[k]) for k in ("missing_keys", "unexpected_keys", "mismatched_keys")},
                  "mean": processor.image_mean, "std": processor.image_std}))
"""


@pytest.fixture(scope="session")
def python4(tmp_path_factory) -> Path:
    """Creates an environment with transformers 4, if the package index is reachable; returns its Python."""
    folder = tmp_path_factory.mktemp("transformers4")
    python = folder / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
        # Compiling all of PyTorch's bytecode takes longer than the test.
        install = [python, "-m", "pip", "install", "-q", "--no-compile", *NEEDS]
        subprocess.run(install, check=True, capture_output=True, timeout=850)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"transformers 4 cannot be installed here: {error}")
    return python


def test_transformers_4_reads_a_saved_clip_with_the_same_features(python4, tmp_path):
    backbone = write_backbone(tmp_path / "clip")
    model = trained(backbone, methods.full_finetune(), (12, 12), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    model.save_pretrained(tmp_path / "saved")
    pixels = np.random.default_rng(2).normal(size=(3, 12, 12, 3)).astype(np.float32)
    np.savez(tmp_path / "in.npz", images=pixels, ids=batch(3)["ids"])
    command = [python4, "-c", READ, tmp_path / "saved", tmp_path / "in.npz", tmp_path / "out.npz"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {
        **dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), 0),
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
    }
    found, ours = np.load(tmp_path / "out.npz"), features(model)
    for name, right in zip(("image", "text"), ours, strict=True):
        np.testing.assert_allclose(found[name], right, rtol=1e-4, atol=1e-5)
    assert tpr_jax.from_pretrained(tmp_path / "saved").mean == (0.1, 0.2, 0.3)
