"""Resizing of position embeddings: the authors' result, and properties of bilinear interpolation."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tpr_jax.weights.resize import (
    cubic_matrix,
    interpolation_matrix,
    resize_patches,
    resize_positions,
    square_of,
)

GOLDEN = Path(__file__).parents[1] / "golden"
SIDES = st.integers(1, 12)


@pytest.mark.parametrize("method", ["dm_adapter", "up_person", "cskt", "irra"])
def test_equals_the_authors_resize(method):
    with safe_open(GOLDEN / f"{method}.safetensors", "np") as bundle:
        size = json.loads(bundle.metadata()["size"])
        before = bundle.get_tensor("clip/visual.positional_embedding")
        after = bundle.get_tensor("state/base_model.visual.positional_embedding")
    grid_to = tuple(side // size["patch"] for side in size["img"])
    ours = resize_positions(before, (size["grid"], size["grid"]), grid_to)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, after, rtol=0, atol=1e-6)


def test_interpolation_weights_by_hand():
    # Two samples to four: the new centers are at -1/4 (clipped to 0), 1/4, 3/4 and 5/4 (clipped to 1).
    np.testing.assert_array_equal(interpolation_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    # Four to two without antialiasing reads only the two neighbors of each new center.
    np.testing.assert_array_equal(interpolation_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


@given(SIDES, SIDES, SIDES, SIDES)
@settings(deadline=None)
def test_equals_the_four_neighbor_formula(rows, columns, new_rows, new_columns):
    grid = np.random.default_rng(rows * columns).standard_normal((rows, columns, 2))
    positions = np.concatenate([np.zeros((1, 2)), grid.reshape(-1, 2)])
    ours = resize_positions(positions, (rows, columns), (new_rows, new_columns))[1:]

    def read(y, x):
        y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
        top = grid[y0, x0] * (1 - (x - x0)) + grid[y0, x1] * (x - x0)
        bottom = grid[y1, x0] * (1 - (x - x0)) + grid[y1, x1] * (x - x0)
        return top * (1 - (y - y0)) + bottom * (y - y0)

    expected = [
        read((i + 0.5) * rows / new_rows - 0.5, (j + 0.5) * columns / new_columns - 0.5)
        for i in range(new_rows)
        for j in range(new_columns)
    ]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@given(SIDES, SIDES, st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 7]))
@settings(deadline=None)
def test_odd_factors_round_trip_exactly(rows, columns, by_rows, by_columns):
    positions = np.random.default_rng(0).standard_normal((1 + rows * columns, 3)).astype(np.float32)
    larger = (rows * by_rows, columns * by_columns)
    there = resize_positions(positions, (rows, columns), larger)
    np.testing.assert_array_equal(resize_positions(there, larger, (rows, columns)), positions)


@given(SIDES, SIDES, SIDES, SIDES)
@settings(deadline=None)
def test_stays_within_range_and_keeps_the_class_token(rows, columns, new_rows, new_columns):
    positions = np.random.default_rng(1).uniform(-1, 1, (1 + rows * columns, 2)).astype(np.float32)
    ours = resize_positions(positions, (rows, columns), (new_rows, new_columns))
    assert ours.shape == (1 + new_rows * new_columns, 2)
    np.testing.assert_array_equal(ours[0], positions[0])
    assert ours[1:].max() <= positions[1:].max() + 1e-6
    assert ours[1:].min() >= positions[1:].min() - 1e-6


def test_wrong_number_of_rows_is_an_error():
    with pytest.raises(ValueError, match="16 positions"):
        resize_positions(np.zeros((16, 2)), (4, 4), (2, 2))


def test_cubic_weights_by_hand():
    """Four samples to eight: the new centers lie a quarter beside the old ones; a = -3/4 in the kernel."""
    matrix = cubic_matrix(4, 8)
    weights = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]
    np.testing.assert_allclose(matrix[3], weights)
    np.testing.assert_allclose(matrix[4], weights[::-1])
    # The first center lies at -1/4; samples beyond the end repeat the first.
    np.testing.assert_allclose(matrix[0], [weights[3] + weights[2] + weights[1], weights[0], 0, 0])


@given(SIDES, SIDES)
@settings(deadline=None)
def test_cubic_resizing_keeps_constants_and_the_same_grid(size_from, size_to):
    np.testing.assert_allclose(cubic_matrix(size_from, size_to).sum(1), 1)
    np.testing.assert_array_equal(cubic_matrix(size_to, size_to), np.eye(size_to))
    patches = np.random.default_rng(size_from).standard_normal((size_from * size_to, 3)).astype(np.float32)
    grid = (size_from, size_to)
    assert resize_patches(patches, grid, grid) is patches
    square = square_of(patches, grid)
    side = max(grid)
    assert square.shape == (side * side, 3) and square.dtype == np.float32
    np.testing.assert_allclose(resize_patches(square, (side, side), grid), patches, atol=1e-5)
