"""The tables of memory and speed on slices."""

import json

from tpr_jax.aot import table as aot_table
from tpr_jax.aot.backbones import NAMES
from tpr_jax.utils.markdown import replace_section

GIB = 2**30


def report(method="dm_adapter", batch=1024, remat="none", **step) -> dict:
    whole = {
        "memory": {"frozen": GIB, "temporaries": 3 * GIB, "code": 5, "total": 4 * GIB + 5},
        "flops": {"ratio": 1.1234},
        "collectives": {"all-reduce": {"bytes": 2**20}, "all-gather": {"bytes": 2**20}},
        "roofline": {"bound": "products", "step": 0.5},
    }
    return {
        "method": method,
        "topology": "v5e:4x4",
        "devices": 16,
        "batch_size": batch,
        "remat": remat,
        "programs": {"train_step": step or whole},
    }


SHORT = {"shortage": {"needed": 20 * GIB, "available": 16 * GIB, "missing": 4 * GIB}}


def test_table_of_slices():
    text = aot_table.table_of_slices([report(), report(method="cskt", **SHORT)])
    assert "| v5e:4x4 | `dm_adapter` | 1,024 | 4.00 GiB | temporaries 3.00 GiB, frozen 1.00 GiB" in text
    assert "| 1.12 | 2.0 MiB | products | 500.0 | 2,048 |" in text
    assert "| v5e:4x4 | `cskt` | 1,024 | 4.00 GiB missing |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_table_of_memory():
    text = aot_table.table_of_memory([report(), report(remat="dots", **SHORT), report(batch=128)])
    assert "| `dm_adapter` | 1,024 | 64 | 4.00 GiB | 20.00 GiB (too much) |  |" in text
    assert "| `dm_adapter` | 128 | 8 | 4.00 GiB |" in text


def test_table_of_backbones():
    rows = aot_table.backbones()
    assert [row["backbone"] for row in rows] == list(NAMES.values())
    text = aot_table.table_of_backbones(
        [report(batch=256) | rows[0], report(**SHORT) | rows[-1] | {"batch_size": 256}]
    )
    assert "| ViT-B/32 | 4.00 GiB | 1.00 GiB | products | 500.0 | 512 |" in text
    assert "| SigLIP 2 So400m/14 | 4.00 GiB missing |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_batch_sizes_divide_over_the_devices():
    for row in (*aot_table.slices(), *aot_table.memory(), *aot_table.backbones()):
        assert row["batch_size"] % aot_table.CHIPS[row["topology"]] == 0


def test_existing_reports_are_not_compiled_again(tmp_path, monkeypatch):
    row, made = aot_table.memory()[0], []

    def run(command, start_new_session):
        made.append(command)
        folder = tmp_path / command[command.index("--workdir") + 1]
        folder.mkdir(parents=True)
        (folder / "aot.json").write_text(json.dumps({"remat": "none"}))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(aot_table.subprocess, "run", run)
    for _ in range(2):
        assert aot_table.compiled(row, tmp_path, False) == {"remat": "none"}
    assert aot_table.compiled(aot_table.slices()[-1], tmp_path, True) is None
    assert aot_table.compiled(aot_table.backbones()[-1], tmp_path, False) == {"remat": "none"}
    assert "--config.backbone=google/siglip2-so400m-patch14-384" in made.pop()
    assert len(made) == 1 and f"--config.batch_size={row['batch_size']}" in made[0]


def test_the_pages_have_markers(pytestconfig):
    for path, marker in aot_table.PAGES.values():
        replace_section((pytestconfig.rootpath / path).read_text(), marker, "x")
