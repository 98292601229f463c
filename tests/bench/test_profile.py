"""Attribution of run time: by hand, by category, and for a program of known operations."""

import jax
import jax.numpy as jnp
import pytest

from tpr_jax.bench import profile
from tpr_jax.bench.models import Case
from tpr_jax.errors import UserError


def test_an_instruction_ends_with_its_last_thread():
    """An instruction in a loop has several spans."""
    events = [
        profile.Event("a", "ThunkExecutor::Execute", 0.0, 2e5, False),
        profile.Event("a", "dot.1", 1e3, 1e4, True),
        profile.Event("a", "copy.2", 2e4, 3e4, True),
        profile.Event("b", "end: dot.1", 9e4, 9.1e4, False),
        profile.Event("a", "dot.1", 10e4, 11e4, True),
        profile.Event("b", "end: dot.1", 15e4, 15.1e4, False),
    ]
    expected = [("dot.1", 1e3, 9e4), ("copy.2", 2e4, 3e4), ("dot.1", 10e4, 15e4)]
    assert profile.operation_spans(reversed(events)) == expected


@pytest.mark.parametrize(
    ("thread", "until", "end"), [("b", 89_999.0, 3e4), ("a", 89_999.0, 9e4), ("b", 5e4, 9e4)]
)
def test_a_thread_may_run_later_instructions_before_it_records_an_end(thread, until, end):
    """Thread b runs what follows the matmul from 30 to 90 microseconds, and then records its end."""
    events = [
        profile.Event("a", "dot.1", 1e3, 1e4, True),
        profile.Event(thread, "ThunkExecutor::Execute", 3e4, until, False),
        profile.Event("b", "end: dot.1", 9e4, 9.1e4, False),
    ]
    assert profile.operation_spans(events) == [("dot.1", 1e3, end)]


def test_concurrent_instructions_share_the_time():
    """a runs alone for 2 s, a and b for 4, b and both c for 3, nothing for 1, c alone for 1."""
    second = 1e9
    seconds = profile.seconds_by_operation(
        [
            profile.Span("a", 0 * second, 6 * second),
            profile.Span("b", 2 * second, 9 * second),
            profile.Span("c", 6 * second, 9 * second),
            profile.Span("c", 6 * second, 9 * second),
            profile.Span("c", 10 * second, 11 * second),
        ]
    )
    assert seconds == pytest.approx({"a": 2 + 2, "b": 2 + 1, "c": 1 + 1 + 1})


@pytest.mark.parametrize(
    ("instruction", "op_name", "category"),
    [
        ("dot.3", "jit(step)/jvp(x)/visual/block_3/mlp/fc/dot_general", "MLP matmuls"),
        ("ynn_fusion.7", "jit(f)/x/text/block_0/attn/qkv/dot_general", "attention projection m"),
        ("dot_general.3", "jit(step)/transpose(x)/visual/block_3/attn/dot_general", "attention head"),
        ("dot.9", "jit(step)/jvp(x)/visual/block_10/beside_mlp/dot_general", "adapter matmuls"),
        ("dot.9", "jit(step)/jvp(x)/visual/conv1/dot_general", "other matmuls"),
        ("dot.2", "", "other matmuls"),
        ("transpose_copy_fusion", "jit(step)/jvp(x)/text/block_3/attn/transpose", "other attention"),
        ("multiply_fusion.1", "jit(step)/jvp(x)/text/block_3/mlp/mul", "other MLP"),
        ("add_fusion", "jit(step)/jvp(x)/text/block_3/ln_2/add", "LayerNorm"),
        ("add_fusion", "jit(step)/jvp(x)/text/block_3/beside_mlp/ln_3/add", "LayerNorm"),
        ("add_fusion", "jit(step)/jvp(x)/text/block_3/beside_ln_1/add", "other adapter operations"),
        ("wrapped_reduce-window.5", "", "reductions that the compiler"),
        ("select_fusion", "jit(step)/jit(_where)/select_n", "loss, optimizer"),
        ("add_fusion", "jit(step)/jvp(x)/visual/block_1/add", "between the blocks"),
    ],
)  # fmt: skip
def test_categories(instruction, op_name, category):
    assert profile.category_of(instruction, op_name).startswith(category)


def test_reads_op_names_from_the_program():
    text = """
      %dot.1 = f32[8,3]{1,0} dot(%a, %b), metadata={op_name="jit(f)/mlp/dot_general"}
      %copy.2 = f32[8,3]{1,0} copy(%dot.1)
      ROOT %add.3 = f32[8,3]{1,0} add(%dot.1, %copy.2), metadata={op_name="jit(f)/add" source_line=3}
    """
    assert profile.op_names(text) == {"dot.1": "jit(f)/mlp/dot_general", "add.3": "jit(f)/add"}


def test_profiles_a_program():
    """Matmuls in an MLP take most of its time."""

    def f(x):
        with jax.named_scope("visual/block_0/mlp"):
            for _ in range(8):
                x = jnp.tanh(x @ x)
        return x

    x = jnp.full((512, 512), 1e-4)
    program = jax.jit(f, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""}).lower(x).compile()
    case = Case(lambda: jax.block_until_ready(program(x)), hlo_text=program.as_text)
    seconds, by_category = profile.profile(case)
    assert 0 < sum(by_category.values()) <= seconds
    assert max(by_category, key=by_category.get) == "MLP matmuls"
    assert by_category["other MLP operations: activations, sums"] > 0


def test_table_is_in_percent_and_complete():
    half = {"MLP matmuls": 1.0, "LayerNorm": 0.5}
    profiles = {"one": profile.Profile(2.0, half), "other": profile.Profile(4.0, {})}
    lines = profile.render_table(profiles).splitlines()
    assert lines[0] == "| percent of the run time | one | other |"
    assert lines[2] == "| seconds | 2 | 4 |" and len(lines) == 4 + len(profile.CATEGORIES)
    assert "| MLP matmuls | 50.0 |  |" in lines and "| LayerNorm | 25.0 |  |" in lines
    assert lines[-1] == "| idle | 25.0 | 100.0 |"


def test_rejects_an_unknown_flag():
    with pytest.raises(UserError, match="--wrong"):
        profile.run(["bench_profile", "--wrong"])
