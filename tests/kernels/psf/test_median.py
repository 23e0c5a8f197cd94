"""Medians against NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lucidcube.kernels.psf.median import median, median_inplace


@given(
    arrays(
        st.sampled_from([np.float32, np.float64]),
        st.integers(1, 60),
        elements=st.floats(-1e6, 1e6, width=32) | st.integers(-3, 3).map(float),
    )
)
def test_equals_numpys(values):
    before = values.copy()
    values.flags.writeable = False
    assert median(values) == np.median(values.astype(np.float64))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("size", [1, 2, 999, 1000])
@pytest.mark.parametrize("order", [1, -1, 0])
def test_sorted_and_constant_values(size, order):
    values = np.arange(size, dtype=np.float64)[:: order or 1] * (order != 0)
    assert median(values) == np.median(values)


def test_in_place_keeps_the_values_and_splits_them_at_the_median():
    values = np.random.default_rng(0).normal(size=1001)
    scratch = values.copy()
    middle = median_inplace(scratch)
    np.testing.assert_array_equal(np.sort(scratch), np.sort(values))
    assert scratch[:500].max() <= middle <= scratch[501:].min()


def test_any_shape():
    assert median(np.arange(12.0).reshape(3, 4).T) == 5.5
