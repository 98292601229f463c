"""The tables of a handmade report."""

from tpr_jax.bench import table as bench_table

MEMORY = {"peak_memory_bytes": 2_000_000_000, "peak_device_memory_bytes": None}
BEST = {"kind": "product", "dtype": "float32", "flops": 1e12, "compile_seconds": 0, "seconds": [1, 2, 9]}
STEP = {"kind": "train_step", "config": "cskt", "backbone": "vit_b_16", "dtype": "float32", "batch": 8}
TORCH_STEP = STEP | {"kind": "torch_train_step", "flops": 0, "compile_seconds": 0}
STEP |= {"flops": 1e12, "compile_seconds": 61.4, "seconds": [3.0, 4.0, 5.0], "cpu_seconds": [9.0, 7.0, 8.0]}
IMAGES = {"tower": "vision", "backbone": "vit_b_16", "dtype": "float32", "batch": 1}
REPORT = {
    "machine": {"device": "a CPU", "cores": 2, "python": "3.11.1", "jax": "0.9"},
    "parts": {
        # The fastest is neither the first nor the last, and one could not be measured.
        "train": {
            "cskt": [
                BEST | MEMORY | {"by": "xla", "seconds": [4.0]},
                BEST | MEMORY | {"by": "numpy"},
                BEST | MEMORY | {"by": "options", "seconds": [1.0, 3.0, 9.0]},
                {"kind": "product", "dtype": "float32", "by": "torch", "error": "no torch"},
                STEP | MEMORY,
                TORCH_STEP | MEMORY | {"seconds": [6.0, 4.0, 5.0], "cpu_seconds": [8.0, 9.0, 10.0]},
                STEP | MEMORY | {"batch": 16},
                TORCH_STEP | {"batch": 16, "error": "no torch"},
            ]
        },
        "encode": {
            "vision": [
                BEST | MEMORY,
                {"kind": "encoder", **IMAGES, "flops": 1e11, "compile_seconds": 1, "seconds": [0.5]} | MEMORY,
                {"kind": "torch_encoder", **IMAGES, "flops": 0, "compile_seconds": 0, "seconds": [0.75]}
                | MEMORY,
                {"kind": "encoder", **IMAGES, "batch": 64, "error": "no room"},
            ]
        },
        "input": {"pictures": [{"workers": 2, "rates": {"ours": [[9, 1], [11, 1]], "plain": [[5, 1]]}}]},
        "search": {
            "50": [{"kind": "search", "vectors": 50_000, "seconds": [0.01, 0.02, 0.03]} | MEMORY],
            "photos": [
                {"kind": kind, "photos": 8, "dtype": "float32", "seconds": [2.0]} | MEMORY
                for kind in ("index", "torch_index")
            ],
        },
        "mini": {},
        "backbones": {
            "ViT-X": [
                {"kind": "encoder", **IMAGES, "batch": 16, "seconds": [3.0, 4.0, 9.0]},
                {"kind": "encoder", **IMAGES, "batch": 16, "error": "no room"},
                STEP | MEMORY,
            ]
        },
    },
}


def test_renders_every_measured_part():
    text = bench_table.render_tables(REPORT)
    lines = text.splitlines()
    assert lines[0] == "Measured on: a CPU, 2 cores, Python 3.11.1, jax 0.9."
    # 1e12 in 4 s is 250 GFLOP/s, half of the matmul's 1e12 in 2 s.
    # The minimum of 3, 4, 5 s is 0.75 of that of 6, 4, 5; the minimum CPU times are 7 and 8 s.
    step = "4 | 0.75 to 1.25 | 250 | 0.50 | NumPy, float32"
    assert f"| cskt | float32 | 8 | {step} | 0.75 | 0.88 | 2.00 | 61 |" in lines
    assert f"| cskt | float32 | 16 | {step} |  |  | 2.00 | 61 |" in lines
    # 1e11 in 0.5 s is 200, 0.4 of 500; PyTorch took 0.75 s. An earlier version did not measure CPU time.
    assert (
        "| images | float32 | 1 | 0.5 | 1.00 to 1.00 | 200 | 0.40 | XLA, our options | 0.67 |  | 2.00 | 1 |"
        in lines
    )
    assert "| 2 | 10 | 5 | plain |" in lines
    assert "| `ViT-X` | float32 | 4 | 2.00 | 4 | no room |" in lines
    assert "| top 10 of 50,000 vectors | 0.02 | 0.50 to 1.50 | 2.00 |" in lines
    assert "| 8 JPEGs to vectors, float32, as `search index` | 2 | 1.00 to 1.00 | 2.00 |" in lines
    assert "| 8 JPEGs to vectors, float32, a loop in PyTorch | 2 | 1.00 to 1.00 | 2.00 |" in lines
    assert any(line.startswith("| images | float32 | 64 | no room |") for line in lines)
    assert "clip-mini" not in text
    for line in lines:
        if line.startswith("|"):
            assert line.count("|") == next(x for x in lines[lines.index(line) :: -1] if "---" not in x).count(
                "|"
            )
