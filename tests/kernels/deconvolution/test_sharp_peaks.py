"""Sharp peaks become points of the same light; nothing else changes."""

import numpy as np
import pytest
from scipy import ndimage

from lucidcube.kernels.deconvolution.sharp_peaks import as_points

Y, X = np.indices((31, 31)) - 15


def spot(y=0, x=0, light=100.0):
    """Return a source (y, x), most of whose light is in one pixel."""
    image = np.zeros(Y.shape)
    image[15 + y, 15 + x - 1 : 15 + x + 2] = light * np.array([0.1, 0.7, 0.2])
    return image


def test_the_light_of_a_peak_is_in_one_pixel():
    made, _ = as_points(spot() + spot(5, 8, 40))
    assert made[15, 15] == pytest.approx(100)
    assert made[20, 23] == pytest.approx(40)
    assert np.count_nonzero(np.abs(made) > 1e-9) == 2


def test_what_is_around_it_stays():
    made, points = as_points(spot() + 5)
    assert made[15, 15] == pytest.approx(105)
    assert np.delete(made.ravel(), 15 * 31 + 15) == pytest.approx(5)
    assert points[15, 15] == pytest.approx(100)
    assert np.count_nonzero(points) == 1


def test_equal_peaks_share_no_light():
    image = np.zeros(Y.shape)
    image[15, 13:18] = [0, 100, 30, 100, 0]
    made, _ = as_points(image)
    assert made[15, 13:18] == pytest.approx([0, 130, 0, 100, 0])


def test_at_the_border_the_light_is_kept():
    for y, x in ((-15, 0), (15, -14), (0, 14)):
        assert as_points(spot(y, x))[0].sum() == pytest.approx(100)


@pytest.mark.parametrize(
    "image",
    [
        np.where(np.hypot(Y, X) < 8, 100.0, 0),
        100 * np.exp(-(Y**2 + X**2) / 8),
        np.where(Y == X, 100.0, 0),
        spot() + 60,
        ndimage.uniform_filter(spot(), 2),
        np.full(Y.shape, -3.0),
        np.zeros(Y.shape),
    ],
    ids=["disc", "blob", "line", "spot-on-bright-light", "between-pixels", "negative", "nothing"],
)
def test_other_objects_are_unchanged(image):
    np.testing.assert_allclose(as_points(image)[0], image, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3)])
def test_small_planes_are_accepted(shape):
    image = np.ones(shape)
    image.flags.writeable = False
    assert [made.shape for made in as_points(image)] == [shape, shape]
