"""Seconds of operations, by hand; what each is for; and a program of known operations, profiled."""

import jax
import jax.numpy as jnp
import pytest

from tpr_jax.bench import profile
from tpr_jax.bench.cases import Ready
from tpr_jax.errors import UserError


def test_an_operation_is_over_when_its_last_thread_is():
    """Of one in a loop there are several."""
    events = [
        profile.Event("a", "ThunkExecutor::Execute", 0.0, 2e5, False),
        profile.Event("a", "dot.1", 1e3, 1e4, True),
        profile.Event("a", "copy.2", 2e4, 3e4, True),
        profile.Event("b", "end: dot.1", 9e4, 9.1e4, False),
        profile.Event("a", "dot.1", 10e4, 11e4, True),
        profile.Event("b", "end: dot.1", 15e4, 15.1e4, False),
    ]
    expected = [("dot.1", 1e3, 9e4), ("copy.2", 2e4, 3e4), ("dot.1", 10e4, 15e4)]
    assert profile.spans(reversed(events)) == expected


@pytest.mark.parametrize(
    ("thread", "until", "end"), [("b", 89_999.0, 3e4), ("a", 89_999.0, 9e4), ("b", 5e4, 9e4)]
)
def test_a_thread_that_notes_an_end_may_have_done_what_comes_next_before(thread, until, end):
    """Thread b ran what comes after the product from 30 to 90 microseconds, and then noted its end."""
    events = [
        profile.Event("a", "dot.1", 1e3, 1e4, True),
        profile.Event(thread, "ThunkExecutor::Execute", 3e4, until, False),
        profile.Event("b", "end: dot.1", 9e4, 9.1e4, False),
    ]
    assert profile.spans(events) == [("dot.1", 1e3, end)]


def test_those_at_work_at_the_same_moment_share_it():
    """a alone for 2 s, a and b for 4, b and both c for 3, nobody for 1, c alone for 1."""
    second = 1e9
    found = profile.attributed(
        [
            profile.Span("a", 0 * second, 6 * second),
            profile.Span("b", 2 * second, 9 * second),
            profile.Span("c", 6 * second, 9 * second),
            profile.Span("c", 6 * second, 9 * second),
            profile.Span("c", 10 * second, 11 * second),
        ]
    )
    assert found == pytest.approx({"a": 2 + 2, "b": 2 + 1, "c": 1 + 1 + 1})


@pytest.mark.parametrize(
    ("operation", "origin", "part"),
    [
        ("dot.3", "jit(step)/jvp(x)/visual/block_3/mlp/fc/dot_general", "products of the MLPs"),
        ("ynn_fusion.7", "jit(f)/x/text/block_0/attn/qkv/dot_general", "products of attention w"),
        ("dot_general.3", "jit(step)/transpose(x)/visual/block_3/attn/dot_general", "products of attention'"),
        ("dot.9", "jit(step)/jvp(x)/visual/block_10/beside_mlp/dot_general", "products of the method"),
        ("dot.9", "jit(step)/jvp(x)/visual/conv1/dot_general", "other products"),
        ("dot.2", "", "other products"),
        ("transpose_copy_fusion", "jit(step)/jvp(x)/text/block_3/attn/transpose", "attention besides"),
        ("multiply_fusion.1", "jit(step)/jvp(x)/text/block_3/mlp/mul", "MLPs besides"),
        ("add_fusion", "jit(step)/jvp(x)/text/block_3/ln_2/add", "LayerNorm"),
        ("add_fusion", "jit(step)/jvp(x)/text/block_3/beside_mlp/ln_3/add", "LayerNorm"),
        ("add_fusion", "jit(step)/jvp(x)/text/block_3/beside_ln_1/add", "the method's parts besides"),
        ("wrapped_reduce-window.5", "", "reductions that the compiler"),
        ("select_fusion", "jit(step)/jit(_where)/select_n", "loss, optimizer"),
        ("add_fusion", "jit(step)/jvp(x)/visual/block_1/add", "between the blocks"),
    ],
)  # fmt: skip
def test_what_an_operation_is_for(operation, origin, part):
    assert profile.part_of(operation, origin).startswith(part)


def test_origins_are_read_from_the_program():
    text = """
      %dot.1 = f32[8,3]{1,0} dot(%a, %b), metadata={op_name="jit(f)/mlp/dot_general"}
      %copy.2 = f32[8,3]{1,0} copy(%dot.1)
      ROOT %add.3 = f32[8,3]{1,0} add(%dot.1, %copy.2), metadata={op_name="jit(f)/add" source_line=3}
    """
    assert profile.origins(text) == {"dot.1": "jit(f)/mlp/dot_general", "add.3": "jit(f)/add"}


def test_the_profile_of_a_program():
    """Nearly all of whose seconds are products in an MLP."""

    def f(x):
        with jax.named_scope("visual/block_0/mlp"):
            for _ in range(8):
                x = jnp.tanh(x @ x)
        return x

    x = jnp.full((512, 512), 1e-4)
    program = jax.jit(f, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""}).lower(x).compile()
    seconds, parts = profile.profile(
        Ready(lambda: jax.block_until_ready(program(x)), 0.0, 0.0, program.as_text)
    )
    assert 0 < sum(parts.values()) <= seconds
    assert parts["products of the MLPs"] > 0.5 * sum(parts.values())
    assert parts["MLPs besides: activations, sums"] > 0


def test_the_table_is_in_percent_and_whole():
    half = {"products of the MLPs": 1.0, "LayerNorm": 0.5}
    lines = profile.table({"one": (2.0, half), "other": (4.0, {})}).splitlines()
    assert lines[0] == "| percent of the seconds | one | other |"
    assert lines[2] == "| seconds | 2 | 4 |" and len(lines) == 4 + len(profile.PARTS)
    assert "| products of the MLPs | 50.0 |  |" in lines and "| LayerNorm | 25.0 |  |" in lines
    assert lines[-1] == "| no operation at work | 25.0 | 100.0 |"


def test_an_unknown_flag_is_a_line():
    with pytest.raises(UserError, match="--wrong"):
        profile.run(["bench_profile", "--wrong"])
