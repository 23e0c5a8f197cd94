"""The combination of both tests for artefacts on made-up deviations."""

import numpy as np
import pytest

from lucidcube.kernels.artefacts.combined_score import combined_score, suspects

CUT = 5.0


def deviations() -> np.ndarray:
    """Return noise of two planes (2, 40, 50)."""
    return np.random.default_rng(0).normal(0, 1, (2, 40, 50)).astype(np.float32)


def test_noise_is_not_suspect() -> None:
    z = deviations()
    found = suspects(z, cut=CUT)
    assert not found.marks.any()
    assert found.amplitude.max() < 2.5
    sharpness = deviations()[::-1]
    expected = np.maximum(np.maximum(np.abs(z), found.amplitude), np.abs(sharpness))
    np.testing.assert_allclose(combined_score(z, sharpness, found).score, expected, rtol=1e-6)


def test_a_ghost_is_suspect_with_its_wings_and_a_hot_pixel_alone() -> None:
    y, x = np.indices((40, 50))
    z = deviations() / 10
    ghost = 20 * np.exp(-((y - 20) ** 2 + (x - 15) ** 2) / (2 * 3.0**2))
    z[0] += ghost
    z[1, 8, 40] = -300
    found = suspects(z, cut=CUT)
    assert found.marks[0][ghost > 3].all()
    assert not found.marks[0][ghost < 1.5].any()
    np.testing.assert_array_equal(np.argwhere(found.marks[1]), [[8, 40]])
    assert found.amplitude[1].max() < CUT


@pytest.mark.parametrize(
    ("spectral", "sharp", "score"), [(20, 20, 20), (20, 0, 0), (0, 20, 0), (9, 16, 12), (2, 50, 4)]
)
def test_extended_suspects_must_fail_both_tests(spectral: float, sharp: float, score: float) -> None:
    z, sharpness = np.zeros((1, 20, 20), np.float32), np.zeros((1, 20, 20), np.float32)
    z[0, 5:12, 5:12] = 20
    found = suspects(z, cut=CUT)
    z[0, 8, 8], found.amplitude[0, 8, 8], sharpness[0, 8, 8] = spectral, spectral, sharp
    assert found.marks[0, 8, 8]
    assert combined_score(z, sharpness, found).score[0, 8, 8] == pytest.approx(score)


def test_single_suspects_are_judged_by_the_psf() -> None:
    z, sharpness = np.zeros((1, 20, 20), np.float32), np.zeros((1, 20, 20), np.float32)
    z[0, 8, 8] = z[0, 15, 3] = 30
    sharpness[0, 8, 8] = -40
    score = combined_score(z, sharpness, suspects(z, cut=CUT)).score
    assert score[0, 8, 8] == 40
    assert score[0, 15, 3] == 0


def test_unknown_deviations_leave_the_score_to_the_psf() -> None:
    z, sharpness = np.full((1, 9, 9), np.nan, np.float32), deviations()[:1, :9, :9] * 5
    sharpness[0, 0, 0] = np.nan
    found = suspects(z, cut=CUT)
    assert np.isnan(found.amplitude).all()
    made = combined_score(z, sharpness, found)
    np.testing.assert_array_equal(made.score, np.abs(np.nan_to_num(sharpness)))
    assert not made.amplitude.any()


def test_the_amplitude_needs_both_tests() -> None:
    z, sharpness = np.zeros((1, 40, 40), np.float32), np.zeros((1, 40, 40), np.float32)
    z[0, 5:15, 5:15] = z[0, 25:35, 25:35] = 4
    sharpness[0, 5:15, 5:15] = -9
    amplitude = combined_score(z, sharpness, suspects(z, cut=CUT)).amplitude
    both, one = amplitude[0, 7:13, 7:13], amplitude[0, 27:33, 27:33]
    np.testing.assert_allclose(both, 4 * 2 * np.sqrt(np.pi) / 3, rtol=0.02)
    np.testing.assert_allclose(one, 0, atol=1e-6)
