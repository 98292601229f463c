"""How `test_golden.py` compares with a bundle, and losses worked out in NumPy where no bundle has them."""

import math

import numpy as np


def relative_l2(found, expected) -> float:
    """The norm of the difference over that of what is expected; infinite where any number is not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape  # not two arrays that NumPy would repeat to one shape
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return math.inf
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def worst(errors: dict[str, float]) -> tuple[float, str]:
    """(error, its name) of the largest. NaN, which `max` would pass over, is the largest of all."""
    assert errors
    return max((math.inf if math.isnan(error) else error, name) for name, error in errors.items())


def assert_close(found, expected, what: str = "") -> None:
    """To 1e-5 of each number; NaN agrees with nothing."""
    assert np.shape(found) == np.shape(expected), what
    np.testing.assert_allclose(found, expected, rtol=1e-5, equal_nan=False, err_msg=what)
    assert np.isfinite(np.asarray(found)).all(), what


def identity_by_hand(image, text, pids, kernel, bias) -> float:
    """METHODS: the mean of the cross-entropies of one linear classifier on both features."""
    found = []
    for feats in (image, text):
        logits = feats @ kernel + bias
        total = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        found.append(np.mean([total[i] - logits[i, pid] for i, pid in enumerate(pids)]))
    return (found[0] + found[1]) / 2


def sigmoid_by_hand(image, text, pids) -> float:
    """SigLIP's algorithm 1 at its first slope and offset: over all pairs, divided by their rows."""
    found = 0.0
    for i, t in np.ndindex(len(pids), len(pids)):
        cosine = image[i] @ text[t] / (np.linalg.norm(image[i]) * np.linalg.norm(text[t]))
        found += np.log1p(np.exp((10 * cosine - 10) * (-1 if pids[i] == pids[t] else 1)))
    return found / len(pids)


def slopes(function, rows: np.ndarray) -> np.ndarray:
    """The gradient of a function of an array, by central differences in float64."""
    found, step = np.zeros_like(rows), 1e-5 * np.abs(rows).mean()
    for at in np.ndindex(rows.shape):
        ends = []
        for sign in (1, -1):
            moved = rows.copy()
            moved[at] += sign * step
            ends.append(function(moved))
        found[at] = (ends[0] - ends[1]) / (2 * step)
    return found


def logits_per_image(expected: dict) -> np.ndarray:
    """The file's logits, an image a row and a text a column.

    PyTorch makes them as the transpose of those by text, and a file may hold them in the memory order of
    those. Which it is the file's own features tell, not the model under test.
    """
    stored, cosines = (
        expected["out/logits_per_image"],
        expected["out/image_embeds"] @ expected["out/text_embeds"].T,
    )
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    by_text = stored.reshape(stored.shape[::-1]).T
    (right,) = [x for x in (stored, by_text) if relative_l2(unit(x), unit(cosines)) < 1e-4]
    return right
