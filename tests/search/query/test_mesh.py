"""The search on a mesh equals sorting all scores, on one device and on eight."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.conftest import forced_devices
from tpr_jax.search.query.mesh import mesh_top_k, shard_vectors

PROGRAM = """
import json, sys
import jax, numpy as np
from tpr_jax.search.query.mesh import mesh_top_k, shard_vectors

assert len(jax.devices()) == 8
saved = np.load(sys.argv[1])
sharded = shard_vectors(saved["vectors"])
print(json.dumps([
    mesh_top_k(sharded, saved["vectors"], query, k, allowed)[1].tolist()
    for query in saved["queries"] for k in (1, 10, 2000) for allowed in (None, saved["allowed"])
]))
"""


def wanted(vectors, query, k, allowed=None):
    scores = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    return sorted(rows.tolist(), key=lambda row: (-scores[row], row))[:k]


@pytest.fixture(scope="module")
def saved():
    """Returns 1,003 vectors, which no number of devices divides; some are copies of others."""
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((1003, 32))
    vectors[500:520] = vectors[:20]
    queries = np.concatenate([vectors[[3, 505]], rng.standard_normal((2, 32))])
    vectors, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, queries))
    return {
        "vectors": vectors.astype(np.float16),
        "queries": queries.astype(np.float32),
        "allowed": rng.random(1003) < 0.3,
    }


def cases(saved):
    for query in saved["queries"]:
        for k in (1, 10, 2000):
            for allowed in (None, saved["allowed"]):
                yield query, k, allowed


def test_on_one_device(saved):
    vectors = saved["vectors"]
    sharded = shard_vectors(vectors, jax.devices()[:1])
    for query, k, allowed in cases(saved):
        scores, rows = mesh_top_k(sharded, vectors, query, k, allowed)
        assert rows.tolist() == wanted(vectors, query, k, allowed)
        np.testing.assert_allclose(scores, vectors[rows].astype(np.float64) @ query, atol=1e-6)


def test_no_allowed_rows(saved):
    sharded = shard_vectors(saved["vectors"])
    assert not len(mesh_top_k(sharded, saved["vectors"], saved["queries"][0], 5, np.zeros(1003, bool))[1])


def test_on_eight_devices(saved, tmp_path):
    np.savez(tmp_path / "saved.npz", **saved)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "saved.npz")]
    done = subprocess.run(command, env=forced_devices(8), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == [wanted(saved["vectors"], *case) for case in cases(saved)]
