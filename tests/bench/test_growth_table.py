"""Exponents worked by hand, and the rows of handmade reports."""

import pytest

from tpr_jax.aot.programs import sizes_of
from tpr_jax.bench import growth, growth_table
from tpr_jax.bench.models import read_config
from tpr_jax.config import defaults as config
from tpr_jax.perf import flops


def row(key, size, seconds, operations=0.0, **more):
    took = {"flops": operations, "compile_seconds": 0, "peak_memory_bytes": 2e9}
    return {key: size, "seconds": seconds, **took, "peak_device_memory_bytes": None, **more}


def test_fits_exponents():
    assert growth_table.fit_exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert growth_table.fit_exponent([10, 100], [5, 500]) == pytest.approx(2)
    assert growth_table.fit_exponent([8, 16, 64], [4, 4, 4]) == 0
    # log2 of sizes: -1, 0, 1 about their mean; of costs: 0, 2, 1. The slope is (-1 * 0 + 1 * 1) / 2.
    assert growth_table.fit_exponent([2, 4, 8], [1, 4, 2]) == pytest.approx(0.5)


def test_fits_only_the_largest_sizes_and_each_turn_alone():
    rows = [row("method.num_experts", 2, [50.0, 50.0, 50.0], 9e9)]
    for size, seconds in ((4, [1.0, 1.0, 1.0]), (8, [2.0, 4.0, 2.0]), (16, [4.0, 16.0, 3.0])):
        rows.append(row("method.num_experts", size, seconds, 1e9))
    fit = growth_table.fit_growth("experts", rows)
    # Medians 1, 2, 4; turns 1, 2, 4 and 1, 4, 16 and 1, 2, 3, whose slope is log2(3) / 2.
    assert fit == pytest.approx((0, 1, 0.792481, 2)) and fit.is_worse


def test_expects_counted_flops_else_the_gallery_size():
    steps = [row("batch", 2**i, [0.5], 7.0 * 4**i) for i in range(3, 6)]
    assert growth_table.fit_growth("batch", steps).expected == pytest.approx(2)
    for name, key in (("ranking", "gallery"), ("search", "vectors")):
        rows = [row(key, 2**i, [0.5]) for i in range(3, 6)]
        assert growth_table.fit_growth(name, rows).expected == pytest.approx(1)
    devices = [row("devices", 2**i, [0.5], 1e9) for i in range(3)]
    assert growth_table.fit_growth("devices", devices)[:2] == (0, 0)


def test_renders_a_table():
    machine = {"device": "a CPU", "cores": 2, "python": "3.11.1", "jax": "0.9"}
    parts = {
        "devices": [row("devices", n, [n**0.16], 1e9) for n in (1, 2, 4)],
        "search": [row("vectors", n, [n**1.14 / 1e9]) for n in (65536, 131072, 262144)],
        "prefix": [row("method.prefix", 4, [0.25], 1e9)],
        "experts": [
            row("method.num_experts", 2, [0.5], 1e9),
            {"method.num_experts": 4, "error": "no room"},
        ],
        "batch": [],
    }
    lines = growth_table.render_table({"machine": machine, "parts": parts}).splitlines()
    assert lines[0] == "Measured on: a CPU, 2 cores, Python 3.11.1, jax 0.9."
    table = {line.split(" | ")[1]: [cell.strip() for cell in line.split("|")][3:-1] for line in lines[4:]}
    assert list(table) == ["gallery", "experts", "prefix length", "forced devices"]
    # 2 ** 0.16 = 1.117, 4 ** 0.16 = 1.248; 0.16 is more than 0.15 above 0.
    assert table["forced devices"] == [
        *("1, 2, 4", "1, 1.12, 1.25", "2.00, 2.00, 2.00"),
        *("0.00", "0.16", "0.16 to 0.16", "**worse**"),
    ]
    assert table["gallery"][0] == "64k, 128k, 256k" and table["gallery"][3:] == [
        *("1.00", "1.14", "1.14 to 1.14", "")
    ]
    assert table["prefix length"][3:] == ["", "", "", ""]
    assert table["experts"][0] == "2" and table["experts"][-1] == "no room"
    assert all(line.count("|") == lines[2].count("|") for line in lines[2:])


def test_rounds_minus_zero_to_zero():
    rows = [row("devices", n, [1.0 - n / 1e5], 1e9) for n in (1, 2, 4)]
    assert growth_table.row_cells("devices", rows)[5:8] == ["0.00", "0.00", "0.00 to 0.00"]


def test_docs_give_the_exponent_with_all_experts(pytestconfig):
    sizes, all_experts, top_k = [], [], []
    for subject in growth.subjects("experts")[-growth_table.LARGEST :]:
        sizes.append(subject["method.num_experts"])
        step = read_config("dm_adapter", "clip_mini", **{"method.num_experts": sizes[-1]})
        for counts, dense in ((all_experts, True), (top_k, False)):
            matmuls = flops.train_step(
                sizes_of(step), config.make_method(step), 32, config.loss_weights(step), all_experts=dense
            )
            counts.append(flops.total(matmuls)["total"])
    page = " ".join((pytestconfig.rootpath / "docs/speed.md").read_text().split())
    assert f"a power of {growth_table.fit_exponent(sizes, all_experts):.2f} at this size" in page
    assert f"{growth_table.fit_exponent(sizes, top_k):.2f}" == "0.01"  # only the routers grow
