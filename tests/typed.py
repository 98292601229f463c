"""Enforces the annotations of the modules that annotate array shapes, in every test of this process."""

import ast
from pathlib import Path

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).parent.parent

# The only modules with annotated shapes that are not checked here: tests give them wrong types on purpose and
# expect the modules' own messages.
CHECK_THEMSELVES = {"tpr_jax.metrics.retrieval", "tpr_jax.model", "tpr_jax.search.query.search"}

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes for a float


def annotates(node: ast.FunctionDef) -> bool:
    """Returns whether the function has an annotation."""
    return bool(node.returns) or any(
        isinstance(child, ast.arg) and child.annotation for child in ast.walk(node.args)
    )


def enforce_annotations() -> None:
    """Checks each call of these modules' functions by beartype; call it before anything imports the package.

    Where a JAX array is expected a NumPy array passes too, as it does in JAX.
    """
    import jax
    import jaxtyping
    import numpy as np
    from jaxtyping import _import_hook

    class Transformer(_import_hook.JaxtypingTransformer):
        """Does not check functions within functions that annotate nothing.

        They are defined anew in each call of the outer one. Wrapping them took a fifth of the tests' time.
        """

        def visit_FunctionDef(self, node):
            if annotates(node) or not any(isinstance(parent, ast.FunctionDef) for parent in self._parents):
                return super().visit_FunctionDef(node)
            self._parents.append(node)
            self.generic_visit(node)
            self._parents.pop()
            return node

    _import_hook.JaxtypingTransformer = Transformer
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
    jaxtyping.install_import_hook(sorted(names - CHECK_THEMSELVES), "tests.typed.check_types")
