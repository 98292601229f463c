"""The spread over seeds, by values worked by hand."""

from tpr_jax.compare.spread import Spread, spread


def test_spread_is_the_sample_standard_deviation():
    # The deviations from 72 are -2, 0 and 2: (4 + 0 + 4) / 2 = 4, whose root is 2.
    assert spread([70.0, 72.0, 74.0]) == Spread(72.0, 2.0, (70.0, 72.0, 74.0))
    assert spread([70.0]) == Spread(70.0, None, (70.0,))
    assert (str(spread([70.0, 72.0, 74.0])), str(spread([70.0]))) == ("72.00 ± 2.00", "70.00")
