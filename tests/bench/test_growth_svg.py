"""The plot of a handmade report: its points, and lines with the expected slope."""

import math
from xml.etree import ElementTree

import pytest

from tpr_jax.bench import growth_svg


def row(key, size, seconds, operations=0.0):
    return {key: size, "seconds": [seconds], "flops": operations}


REPORT = {
    "parts": {
        "batch": [row("batch", 2**i, 0.01 * 2**i, 1e9 * 2**i) for i in range(3, 8)],
        "ranking": [row("gallery", n, n / 1e5) for n in (4096, 8192, 16384)],
        "search": [row("vectors", n, n / 1e7) for n in (65536, 131072)],
        "devices": [row("devices", n, 0.1 * n, 1e9) for n in (1, 2, 4, 8)],
        "prefix": [{"method.prefix": 4, "error": "no room"}],
    }
}


def test_draws_points_and_expected_slopes():
    batch, galleries, experts, prefix, devices, _ = growth_svg.draw(REPORT).axes
    points, expected = batch.lines
    assert list(points.get_xdata()) == [8, 16, 32, 64, 128]
    assert list(points.get_ydata()) == pytest.approx([0.08, 0.16, 0.32, 0.64, 1.28])
    assert list(expected.get_ydata()) == pytest.approx([0.32, 0.64, 1.28])  # measured as expected
    # Expected to be flat: through the geometric mean of 0.2, 0.4 and 0.8.
    assert list(devices.lines[1].get_ydata()) == pytest.approx([0.4] * 3)
    assert [text.get_text() for text in devices.texts] == ["1.00, expected 0.00"]
    assert [text.get_text().split()[0] for text in galleries.texts] == ["ranking", "search"]
    for axes in (experts, prefix):
        assert not axes.lines and axes.texts[0].get_text() == "not measured"


def test_both_axes_have_the_same_scale():
    for axes in growth_svg.draw(REPORT).axes[:2]:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert math.log(right / left) == pytest.approx(math.log(top / bottom)) and axes.get_box_aspect() == 1
        for line in axes.lines:
            assert min(line.get_ydata()) > bottom and max(line.get_ydata()) < top


def test_svg_is_deterministic():
    text = growth_svg.render_svg(REPORT)
    assert text == growth_svg.render_svg(REPORT) and len(text) < 200_000
    assert ElementTree.fromstring(text).tag.endswith("svg")
