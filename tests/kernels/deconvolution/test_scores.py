"""Both methods on the recorded scene, against its truth and the scores of the reference program."""

import numpy as np
import pytest
from astropy.io import fits

from deconvolvers import clean_modified, lucy_richardson
from disc_scene import error
from locations import SHARED

PLANES = (4, 15, 26)
pytestmark = pytest.mark.skipif(
    not (SHARED / "reference").is_dir(), reason="no shared data next to the repository"
)


def planes(folder, name, hdu=0):
    with fits.open(folder / f"{name}.fits.gz") as hdus:
        return hdus[hdu].data[list(PLANES)].astype(np.float32)


@pytest.fixture(scope="module")
def scene():
    """Interpolated planes, PSF models, missing pixels, truth at the same wavelengths, disc; and the folder."""
    outputs = SHARED / "reference" / "outputs"
    with fits.open(SHARED / "reference" / "scene" / "truth.fits.gz") as hdus:
        cube, header = hdus["DATA"].data, hdus["DATA"].header
        step = header.get("CD3_3", header.get("CDELT3"))
        # Channels of 1.25 A, rebinned to steps of 10 A by a triangle of 20 A full width at half maximum.
        centres = [round(k * 1e-9 / step) for k in PLANES]
        reach = round(2e-9 / step)
        weights = 1 - np.abs(np.arange(-reach, reach + 1)) / reach
        truth = [
            np.average(cube[c - reach : c + reach + 1].astype(float), axis=0, weights=weights)
            for c in centres
        ]
    disc = truth[0] > 0.2 * truth[0].max()
    missing = np.isnan(planes(outputs, "obs_rebin"))
    psf = planes(outputs, "star_rebin_normalised_modelled_radial")
    return planes(outputs, "obs_rebin_interp"), psf, missing, truth, disc, outputs


@pytest.mark.parametrize(
    ("recorded", "deconvolve"),
    [
        ("deconv_lr", lucy_richardson),
        ("deconv_t0.3", clean_modified),
        ("deconv_otsu", lambda plane, psf, **given: clean_modified(plane, psf, threshold=-1.0, **given)),
    ],
)
def test_no_further_from_the_truth_than_the_reference_program(recorded, deconvolve, scene):
    observed, psf, missing, truth, disc, outputs = scene
    theirs = planes(outputs, recorded)
    scores = []
    for k in range(len(PLANES)):
        where = disc & ~missing[k]
        ours = deconvolve(observed[k], psf[k], filled=missing[k]).components
        scores.append([error(image, truth[k], where) for image in (ours, theirs[k], observed[k])])
    ours, recorded_score, blurred = np.mean(scores, axis=0)
    assert ours < recorded_score < blurred
