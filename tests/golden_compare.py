"""Comparisons for `test_golden.py`, and NumPy versions of losses that no bundle holds."""

import math

import numpy as np


def relative_l2(found, expected) -> float:
    """Returns the norm of the difference over the expected norm; infinity if any value is not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape  # no broadcasting
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return math.inf
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def worst(errors: dict[str, float]) -> tuple[float, str]:
    """Returns the largest error and its name; NaN, which `max` ignores, is the largest of all."""
    assert errors
    return max((math.inf if math.isnan(error) else error, name) for name, error in errors.items())


def assert_close(found, expected, what: str = "") -> None:
    """Asserts a relative difference below 1e-5 of each value; NaN equals nothing."""
    assert np.shape(found) == np.shape(expected), what
    np.testing.assert_allclose(found, expected, rtol=1e-5, equal_nan=False, err_msg=what)
    assert np.isfinite(np.asarray(found)).all(), what


def identity_by_hand(image, text, pids, kernel, bias) -> float:
    """Computes the mean cross-entropy of one linear classifier on the features of both towers."""
    found = []
    for feats in (image, text):
        logits = feats @ kernel + bias
        total = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        found.append(np.mean([total[i] - logits[i, pid] for i, pid in enumerate(pids)]))
    return (found[0] + found[1]) / 2


def sigmoid_by_hand(image, text, pids) -> float:
    """Computes SigLIP's algorithm 1 at its initial slope and offset: sum over pairs, divided by rows."""
    found = 0.0
    for i, t in np.ndindex(len(pids), len(pids)):
        cosine = image[i] @ text[t] / (np.linalg.norm(image[i]) * np.linalg.norm(text[t]))
        found += np.log1p(np.exp((10 * cosine - 10) * (-1 if pids[i] == pids[t] else 1)))
    return found / len(pids)


def numerical_gradient(function, rows: np.ndarray) -> np.ndarray:
    """Computes the gradient of a function of an array by central differences in float64."""
    gradient, step = np.zeros_like(rows), 1e-5 * np.abs(rows).mean()
    for index in np.ndindex(rows.shape):
        values = []
        for sign in (1, -1):
            moved = rows.copy()
            moved[index] += sign * step
            values.append(function(moved))
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


def logits_per_image(expected: dict) -> np.ndarray:
    """Returns a file's logits, with a row for each image and a column for each text.

    Without their mean they are proportional to the cosines without theirs. PyTorch computes them as the
    transpose of the logits per text, and a file may hold them in that memory order. The features in the file
    decide which it is, not the model under test.
    """
    stored, cosines = (
        expected["out/logits_per_image"],
        expected["out/image_embeds"] @ expected["out/text_embeds"].T,
    )

    def unit(x):
        return (x - x.mean()) / np.linalg.norm(x - x.mean())

    by_text = stored.reshape(stored.shape[::-1]).T
    (right,) = [x for x in (stored, by_text) if relative_l2(unit(x), unit(cosines)) < 1e-4]
    return right
