"""Longer text towers: Long-CLIP's two tables of positions, and positions stretched to a new length."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from tpr_jax.errors import UserError
from tpr_jax.models.config import ClipConfig
from tpr_jax.weights.name_maps import Params
from tpr_jax.weights.resize import interpolation_matrix

# The two tables of text positions in Long-CLIP's files: under OpenAI's names, and under Hugging Face's.
OPENAI_TABLES = ("positional_embedding", "positional_embedding_res")
HUGGING_FACE_TABLES = (
    "text_model.embeddings.position_embedding.weight",
    "text_model.embeddings.position_embedding_res",
)
KEPT_POSITIONS = 20  # Long-CLIP leaves the first 20, which CLIP was trained on most, as they are


def join_long_positions(
    state: Mapping[str, np.ndarray], where: str, tables: tuple[str, str] = OPENAI_TABLES
) -> Mapping[str, np.ndarray]:
    """Joins the two tables of text positions of Long-CLIP (Zhang et al., ECCV 2024) into one.

    The first 20 positions come from the first table, which stays as in CLIP, the others from the second.
    Returns any other state unchanged.

    Args:
      state: name -> array.
      where: the file, for error messages.
      tables: the names of the two; that of the second may end in `.weight`.

    Raises:
      UserError: the tables have different shapes.
    """
    short, long = tables
    long = next((name for name in (long, f"{long}.weight") if name in state), None)
    if long is None:
        return state
    first, second = (np.asarray(state.get(name, ())) for name in (short, long))
    if first.ndim != 2 or first.shape != second.shape:
        raise UserError(
            f"{where}: weight {long!r} has shape {list(second.shape)}, expected that of {short!r}, "
            f"{list(first.shape)}; use undamaged weights"
        )
    joined = np.concatenate([first[:KEPT_POSITIONS], second[KEPT_POSITIONS:]])
    return {name: array for name, array in state.items() if name != long} | {short: joined}


def stretch_positions(positions: Float[np.ndarray, "n d"], length: int) -> Float[np.ndarray, "length d"]:
    """Interpolates a table of text positions linearly to `length` rows.

    As in Long-CLIP, the first 20 rows stay as they are; of a table of less than 40 rows, the first half.
    """
    kept = min(KEPT_POSITIONS, len(positions) // 2)
    matrix = interpolation_matrix(len(positions) - kept, length - kept)
    rest = (matrix @ positions[kept:].astype(np.float64)).astype(positions.dtype)
    return np.concatenate([positions[:kept], rest])


def with_text_positions(params: Params, config: ClipConfig) -> Params:
    """Stretches a shorter table of text positions to the context length of `config`."""
    positions = params["text"]["positional_embedding"]
    if len(positions) >= config.context_length:
        return params
    stretched = stretch_positions(positions, config.context_length)
    return params | {"text": params["text"] | {"positional_embedding": stretched}}
