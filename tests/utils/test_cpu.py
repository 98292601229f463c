"""The fields of /proc/cpuinfo, over all processors."""

import pytest

from tpr_jax.utils import cpu

CPUINFO = """processor\t: 0
model name\t: X
flags\t\t: fpu {}

processor\t: 1
model name\t: X
flags\t\t: fpu {}
"""


def test_reads_the_distinct_values_of_each_field(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO.format("avx", "avx"))
    assert cpu.fields(str(path)) == {"processor": ["0", "1"], "model name": ["X"], "flags": ["fpu avx"]}


def test_returns_the_instruction_sets_of_all_processors(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO.format("avx amx_bf16", "avx"))
    assert cpu.instruction_sets(str(path)) == {"fpu", "avx"}
    path.write_text("processor : 0\nFeatures : fp asimd\n")  # ARM
    assert cpu.instruction_sets(str(path)) == {"fp", "asimd"}


def test_returns_nothing_where_the_system_does_not_say(tmp_path):
    missing = str(tmp_path / "missing")
    assert cpu.fields(missing) == {} and cpu.instruction_sets(missing) == set()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("amx_bf16 amx_tile", True),  # Xeon, from Sapphire Rapids on
        ("avx512f avx512_bf16", True),  # EPYC and Ryzen, from Zen 4 on
        ("avx512f avx512_vnni", False),
        ("amx_bf160 amx_int8", False),
    ],
)
def test_reads_the_flags_of_the_cpu(flags, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags, flags))
    assert cpu.has_bfloat16_products(str(tmp_path / "cpuinfo")) is expected


def test_assumes_no_products_of_bfloat16_where_the_system_does_not_say(tmp_path):
    assert cpu.has_bfloat16_products(str(tmp_path / "missing")) is False
