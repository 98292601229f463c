"""Resizes a vision tower's position embedding to another grid of patches."""

import numpy as np
from jaxtyping import Float


def interpolation_matrix(size_from: int, size_to: int) -> Float[np.ndarray, "size_to size_from"]:
    """Returns the matrix that interpolates one axis linearly between pixel centers, in float64.

    This is `align_corners=False` without antialiasing: output i reads the input at
    (i + 1/2) * size_from / size_to - 1/2, clipped to the first and last sample. Each row sums to 1.
    """
    at = np.clip((np.arange(size_to) + 0.5) * size_from / size_to - 0.5, 0, size_from - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, size_from - 1)
    matrix = np.zeros((size_to, size_from))
    np.add.at(matrix, (np.arange(size_to), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(size_to), high), at - low)
    return matrix


def resize_positions(
    positions: Float[np.ndarray, "n_from d"], grid_from: tuple[int, int], grid_to: tuple[int, int]
) -> Float[np.ndarray, "n_to d"]:
    """Resizes a position embedding from one grid to another, bilinearly and without antialiasing.

    Person-retrieval methods built on CLIP resize the square grid of its pre-training in this way. Enlarging
    an axis by an odd integer factor and shrinking it again restores the values exactly, because every old
    center is then also a new one.

    Args:
      positions: the class token, then the patches row by row.
      grid_from: (rows, columns) of `positions`.
      grid_to: (rows, columns) of the result.

    Raises:
      ValueError: `positions` does not have 1 + rows * columns of `grid_from` rows.
    """
    rows, columns = grid_from
    if len(positions) != 1 + rows * columns:
        raise ValueError(f"{len(positions)} positions do not make 1 + {rows} x {columns}")
    if tuple(grid_from) == tuple(grid_to):
        return positions
    patches = positions[1:].reshape(rows, columns, -1).astype(np.float64)
    resized = np.einsum(
        "ia,jb,abd->ijd",
        interpolation_matrix(rows, grid_to[0]),
        interpolation_matrix(columns, grid_to[1]),
        patches,
        optimize=True,
    )
    resized = resized.reshape(-1, positions.shape[1]).astype(positions.dtype)
    return np.concatenate([positions[:1], resized])
