"""Compiler options are set for the CPU only, and only where this version of XLA accepts them."""

import jax
import jax.numpy as jnp

from tpr_jax.perf.xla_options import compiler_options, encoder_options


def test_returns_no_options_for_other_platforms():
    assert compiler_options("tpu") == compiler_options("gpu") == {}


def test_xla_accepts_the_cpu_options():
    program = jax.jit(jnp.negative, compiler_options=compiler_options("cpu"))
    assert program(1.0) == -1.0


def test_encoder_of_one_row_keeps_the_fusions():
    assert encoder_options(1) == {}
    assert encoder_options(2) == encoder_options(16) == compiler_options()
