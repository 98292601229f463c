"""GPUs that programs are compiled for without having one."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from tpr_jax.aot import devices, gpus
from tpr_jax.errors import UserError
from tpr_jax.perf import chips

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("topology", "name", "shape"),
    [
        ("h100", "h100", "1x1x1"),
        ("a100-40gb:8", "a100-40gb", "1x1x8"),
        ("rtx4090:2", "rtx4090", "1x1x2"),
        ("h100:2x8", "h100", "1x2x8"),
    ],
)
def test_names_of_topologies(topology, name, shape):
    assert gpus.parse(topology) == (gpus.GPUS[name], shape)


@pytest.mark.parametrize(
    "topology", ["v5e:4x4", "h100:0", "h100:", "h100:8x", "h100:1x2x8", "k80", "gpu", ""]
)
def test_other_names_are_no_gpus(topology):
    assert gpus.parse(topology) is None


def test_each_gpu_has_its_rates_and_its_own_name():
    assert len({gpu.kind for gpu in gpus.GPUS.values()}) == len(gpus.GPUS)
    for gpu in gpus.GPUS.values():
        assert chips.find(gpu.kind) is chips.GPUS[gpu.kind]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (  # 132 multiprocessors, 3.35 TB/s, 50 MiB of L2 cache, compute capability 9.0
            "h100",
            (
                "cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }",
                "core_count: 132",
                "memory_bandwidth: 3350000000000",
                "l2_cache_size: 52428800",
                "device_memory_size: 85520809984",
                "shared_memory_per_core: 233472",
                "shared_memory_per_block_optin: 232448",
                'device_description_str: "NVIDIA H100 80GB HBM3"',
            ),
        ),
        (  # 82 multiprocessors of 128 units and 1,536 threads, 100 KiB of shared memory, 936 GB/s
            "rtx3090",
            (
                "cuda_compute_capability { major: 8 minor: 6",
                "core_count: 82",
                "fpus_per_core: 128",
                "memory_bandwidth: 936000000000",
                "threads_per_core_limit: 1536",
                "shared_memory_per_core: 102400",
                "shared_memory_per_block: 49152",
                "shared_memory_per_block_optin: 101376",
            ),
        ),
    ],
)
def test_the_description_has_the_data_sheets_numbers(name, lines):
    text = gpus.description(gpus.GPUS[name])
    for line in lines:
        assert line in text


def test_only_hopper_and_later_have_accelerated_features():
    accelerated = {name for name, gpu in gpus.GPUS.items() if "ACCELERATED" in gpus.description(gpu)}
    assert accelerated == {"h100", "h200", "b200"}


@pytest.mark.parametrize("name", ["h10", "h1oo"])
def test_a_mistyped_gpu(name):
    with pytest.raises(UserError, match="did you mean 'h100'"):
        devices.devices(name)


@pytest.mark.parametrize("name", ["h100:0", "H100", "h100x8", "h100:2x2x2", "a100-80gb"])
def test_another_form_of_a_gpu_is_told_the_forms(name):
    with pytest.raises(
        UserError, match=f"--topology {name} is unknown: GPUs are rtx3090, .*h100:8.*h100:2x8"
    ):
        devices.devices(name)


@pytest.mark.parametrize("version", [12, 13])
def test_describes_the_gpu_to_the_installed_compiler(monkeypatch, version):
    from jax.experimental import topologies

    asked = []

    def describe(**settings):
        asked.append(settings)
        return SimpleNamespace(devices=("one", "two"))

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == f"jax_cuda{version}_plugin" or None)
    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    monkeypatch.setattr(jax.config, "update", lambda *setting: asked.append(setting))
    assert devices.devices("a100:2") == ["one", "two"]
    platforms, described = asked
    assert platforms == ("jax_platforms", "cpu")  # nothing here may start on a GPU
    assert described["platform"] == "cuda" and described["topology"] == "1x1x2"
    assert described["target_config"] == gpus.description(gpus.GPUS["a100"])


def test_reports_a_missing_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--topology l4: the GPU's compiler is not installed: .*jax\[cuda12\]"
    ):
        devices.devices("l4")


def test_a_compiler_that_does_not_start(monkeypatch):
    from jax.experimental import topologies

    def fail(**settings):
        raise RuntimeError("Unknown option: target_config\nmore")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "get_topology_desc", fail)
    with pytest.raises(UserError, match=r"does not start \(Unknown option: target_config\): pip install -U"):
        devices.devices("h100:8")


def test_a_program_fits_into_three_quarters_of_the_memory(monkeypatch):
    """24,576 MiB of an RTX 3090: 18,432 are available by default."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    kind = "NVIDIA GeForce RTX 3090"
    assert gpus.shortage(kind, 18_432 * 2**20) is None
    found = gpus.shortage(kind, 20_000 * 2**20)
    assert found == {"needed": 20_000 * 2**20, "available": 18_432 * 2**20, "missing": 1_568 * 2**20}
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert gpus.shortage(kind, 20_000 * 2**20) is None
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "80%")
    with pytest.raises(UserError, match="XLA_PYTHON_CLIENT_MEM_FRACTION=80%: is not a number"):
        gpus.shortage(kind, 1)


def test_the_memory_of_other_devices_is_not_known():
    assert gpus.shortage("cpu", 2**60) is gpus.shortage("TPU v5e", 2**60) is None


NEEDS_PLUGIN = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="JAX's CUDA plugin is not installed",
)


def run(code: str) -> list[str]:
    """Runs code in a process that has not used JAX, which may find no plugin later; returns its lines."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@NEEDS_PLUGIN
@pytest.mark.parametrize("name", gpus.GPUS)
def test_compiles_for_each_gpu(name):
    kind, text = run(f"""
        from tpr_jax.aot import devices
        (device,) = devices.devices("{name}")
        print(device.device_kind)
        import jax, jax.numpy as jnp
        x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
        compiled = jax.jit(lambda x: jnp.tanh(x @ x).sum()).lower(x).compile()
        print("fusion" in compiled.as_text())
    """)
    assert (kind, text) == (gpus.GPUS[name].kind, "True")


@NEEDS_PLUGIN
def test_gpus_of_two_machines():
    (found,) = run("""
        from tpr_jax.aot import devices
        found = devices.devices("h100:2x4")
        print(len(found), {device.process_index for device in found})
    """)
    assert found == "8 {0, 1}"


@NEEDS_PLUGIN
@pytest.mark.skipif(importlib.util.find_spec("nvidia") is None, reason="cuDNN is not installed")
def test_attention_is_cudnns_kernel():
    calls, counts = run("""
        from tpr_jax.aot import devices
        found = devices.devices("h100:4")
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from tpr_jax.aot.products import products
        from tpr_jax.models import attention
        from tpr_jax.train.step import on_mesh
        mesh = Mesh(np.array(found), ("data",))
        x = jax.ShapeDtypeStruct(
            (8, 12, 193, 64), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("data"))
        )
        attend = on_mesh(lambda x: attention.attend(x, x, x, None).astype(jnp.float32).sum(), mesh)
        text = jax.jit(jax.grad(attend)).lower(x).compile().as_text()
        print("__cudnn$fmhaSoftmaxBackward" in text)
        print([int(p.flops) for p in products(text)])
    """)
    assert calls == "True" and counts == str([k * 2 * 2 * 12 * 200 * 200 * 64 for k in (2, 5)])
