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
    matrices = (interpolation_matrix(a, b) for a, b in zip(grid_from, grid_to, strict=True))
    resized = _apply(*matrices, positions[1:])
    return np.concatenate([positions[:1], resized])


def cubic_matrix(size_from: int, size_to: int) -> Float[np.ndarray, "size_to size_from"]:
    """Returns the matrix that interpolates one axis by cubic convolution between pixel centers, in float64.

    The kernel is that of Keys (IEEE TASSP 1981) with a = -3/4. As with `align_corners=False` and without
    antialiasing, output i reads the input at (i + 1/2) * size_from / size_to - 1/2, and the first and last
    sample are repeated beyond the ends. Each row sums to 1.
    """
    a = -0.75
    at = (np.arange(size_to) + 0.5) * size_from / size_to - 0.5
    low = np.floor(at).astype(int)
    matrix = np.zeros((size_to, size_from))
    for offset in (-1, 0, 1, 2):
        x = np.abs(at - (low + offset))
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        samples = np.clip(low + offset, 0, size_from - 1)
        np.add.at(matrix, (np.arange(size_to), samples), np.where(x <= 1, near, far))
    return matrix


def resize_patches(
    patches: Float[np.ndarray, "n_from d"], grid_from: tuple[int, int], grid_to: tuple[int, int]
) -> Float[np.ndarray, "n_to d"]:
    """Resizes a position embedding without class token by cubic convolution, as SigLIP's is resized.

    Args:
      patches: the embedding of each patch, row by row.
      grid_from: (rows, columns) of `patches`.
      grid_to: (rows, columns) of the result.
    """
    if tuple(grid_from) == tuple(grid_to):
        return patches
    return _apply(*(cubic_matrix(a, b) for a, b in zip(grid_from, grid_to, strict=True)), patches)


def square_of(patches: Float[np.ndarray, "n_from d"], grid: tuple[int, int]) -> Float[np.ndarray, "n_to d"]:
    """Returns a square embedding of the longer side that `resize_patches` resizes to `patches`.

    Of the many that do, returns the one closest to the enlarged embedding in least squares.
    """
    side = max(grid)
    enlarged = resize_patches(patches, grid, (side, side))
    difference = patches - resize_patches(enlarged, (side, side), grid)
    rows, columns = (np.linalg.pinv(cubic_matrix(side, size)) for size in grid)
    return enlarged + _apply(rows, columns, difference)


def _apply(
    rows: Float[np.ndarray, "h_to h_from"],
    columns: Float[np.ndarray, "w_to w_from"],
    patches: Float[np.ndarray, "n_from d"],
) -> Float[np.ndarray, "n_to d"]:
    """Multiplies both axes of a grid of patches by matrices, in float64."""
    grid = patches.reshape(rows.shape[1], columns.shape[1], -1).astype(np.float64)
    resized = np.einsum("ia,jb,abd->ijd", rows, columns, grid, optimize=True)
    return resized.reshape(-1, patches.shape[1]).astype(patches.dtype)
