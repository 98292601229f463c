"""Enforces the annotations of the modules that annotate array shapes, in every test of this process."""

from pathlib import Path

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).parent.parent

# The only modules with annotated shapes that are not checked here: tests give them wrong types on purpose and
# expect the modules' own messages.
CHECK_THEMSELVES = {"tpr_jax.metrics.retrieval", "tpr_jax.model", "tpr_jax.search.query.search"}

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes for a float


def enforce_annotations() -> None:
    """Checks each call of these modules' functions by beartype; call it before anything imports the package.

    Where a JAX array is expected a NumPy array passes too, as it does in JAX.
    """
    import jax
    import jaxtyping
    import numpy as np

    arrays = jax.Array | np.ndarray
    try:
        from jax._src.literals import TypedNdArray  # a NumPy array that is a constant of a traced function
    except ImportError:
        pass
    else:
        arrays |= TypedNdArray
    jaxtyping.Array = arrays
    names = set()
    for path in (ROOT / "tpr_jax").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT / "tpr_jax").with_suffix("").parts)
        if "jaxtyping" in path.read_text():
            names.add(f"tpr_jax.{name}")
    jaxtyping.install_import_hook(sorted(names - CHECK_THEMSELVES), "tests.typed.typechecker")
