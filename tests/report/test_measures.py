"""The measurements and the pictures of a report, against analytic truth."""

from __future__ import annotations

import base64
import io
import math
import types
from itertools import pairwise

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from config_scenes import moffat
from locations import ROOT
from lucidcube.plotting.channels import unit_text
from lucidcube.report.charts import HEIGHT, WIDTH, Line, chart
from lucidcube.report.citation import AUTHORS, TITLE, bibtex, citation
from lucidcube.report.log_charts import stop_reasons
from lucidcube.report.measures import (
    compare_star,
    difference,
    power_spectrum,
    radial_profile,
    sharpness,
    width,
)
from lucidcube.report.pictures import (
    LARGEST_SIDE,
    MISSING,
    OUTLINE,
    Picture,
    Scale,
    flux_scale,
    marks,
    number_text,
    outlined,
    picture,
    shrunk,
    symmetric_scale,
)


def gaussian(shape: tuple[int, int], fwhm: tuple[float, float], centre: tuple[float, float]) -> np.ndarray:
    y, x = (np.arange(n)[:, None] - c for n, c in zip(shape, centre, strict=True))
    rows, columns = (np.exp(-4 * math.log(2) * (d / f) ** 2) for d, f in ((y, fwhm[0]), (x, fwhm[1])))
    return (rows * columns.T).astype(np.float32)


def pixels(shown: Picture) -> np.ndarray:
    """Return the colours (y, x, 3) of a picture, with y upwards."""
    data = base64.b64decode(shown.source.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[::-1]


@pytest.mark.parametrize("fwhm", [2.0, 2.87, 4.0, 7.3])
def test_the_width_of_a_gaussian(fwhm: float) -> None:
    psf = gaussian((41, 43), (fwhm, fwhm), (20, 21))
    assert width(psf) == pytest.approx(fwhm, rel=0.02)


def test_the_width_of_an_ellipse_is_that_of_the_circle_with_the_same_area() -> None:
    assert width(gaussian((61, 61), (3.0, 6.0), (30, 30))) == pytest.approx(math.sqrt(18), rel=0.02)


@pytest.mark.parametrize("psf", [np.full((9, 9), np.nan), np.zeros((9, 9)), np.ones((9, 9)), np.ones((1, 1))])
def test_the_width_of_no_psf_is_unknown(psf: np.ndarray) -> None:
    assert math.isnan(width(psf.astype(np.float32)))


def test_the_power_of_white_noise_is_its_variance() -> None:
    noise = np.random.default_rng(1).normal(0, 3, (128, 96)).astype(np.float32)
    spectrum = power_spectrum(noise)
    assert spectrum.frequency.max() < 0.5
    np.testing.assert_allclose(spectrum.power[5:], 9, rtol=0.5)
    assert spectrum.power[5:].mean() == pytest.approx(9, rel=0.03)


def test_a_wave_has_its_power_at_its_frequency() -> None:
    x = np.arange(100)
    plane = np.tile(np.sin(2 * np.pi * 0.21 * x), (80, 1)).astype(np.float32)
    spectrum = power_spectrum(plane)
    assert spectrum.frequency[np.nanargmax(spectrum.power)] == pytest.approx(0.21, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (8, 5)])
def test_small_planes_have_a_spectrum(shape: tuple[int, int]) -> None:
    assert np.isfinite(power_spectrum(np.full(shape, np.nan, np.float32)).power).any()


def test_blur_reduces_sharpness_and_flux_does_not() -> None:
    plane = moffat((51, 51), 3.0, (25, 25)).astype(np.float32)
    blurred = ndimage.gaussian_filter(plane, 2)
    assert sharpness(plane) > 1.3 * sharpness(blurred)
    assert sharpness(1e3 * plane) == pytest.approx(sharpness(plane), rel=1e-4)
    assert math.isnan(sharpness(np.full((5, 5), np.nan, np.float32)))
    # A Gaussian of standard deviation s has the relative gradient 1 / s, and smoothing adds 1 to s^2.
    wide = gaussian((101, 101), (3 * 2.3548, 3 * 2.3548), (50, 50))
    assert sharpness(wide) == pytest.approx(1 / math.sqrt(10), rel=0.04)


@pytest.mark.parametrize(
    ("shape", "centre"), [((41, 41), (20.0, 20.0)), ((44, 48), (21.3, 24.6)), ((31, 40), (9.2, 30.7))]
)
def test_a_star_is_found_and_scaled(shape: tuple[int, int], centre: tuple[float, float]) -> None:
    rng = np.random.default_rng(2)
    star = 1e5 * moffat(shape, 4.0, centre) + 70 + rng.normal(0, 1, shape)
    star[3, 4] = np.nan
    fit = compare_star(star.astype(np.float32), moffat((61, 61), 4.0, (30, 30)).astype(np.float32))
    assert fit is not None
    assert fit.centre == pytest.approx(centre, abs=0.01)
    known = np.isfinite(fit.data)
    assert np.abs(fit.data - fit.model)[known].max() < 0.005 * fit.model.max()
    assert not known[3, 4]


def test_there_may_be_no_star() -> None:
    nothing, psf = np.full((9, 9), np.nan, np.float32), moffat((9, 9), 3, (4, 4)).astype(np.float32)
    assert compare_star(nothing, psf) is None
    assert compare_star(psf, nothing) is None
    assert compare_star(-psf, psf) is None


def test_the_radial_profile_of_a_cone() -> None:
    y, x = np.indices((41, 41)) - 20.0
    radius, mean = radial_profile((30 - np.hypot(y, x)).astype(np.float32), (20, 20))
    np.testing.assert_allclose(mean[:20], 30 - radius[:20], atol=0.25)


def test_the_difference_of_planes() -> None:
    plane = moffat((31, 31), 4.0, (15, 15)).astype(np.float32)
    apart, light = difference(1.1 * plane, plane)
    assert math.sqrt(apart / light) == pytest.approx(0.1, rel=1e-4)


def test_a_picture_has_the_colours_of_its_scale_and_y_upwards() -> None:
    plane = np.array([[0.0, 1.0, 2.0], [np.nan, 9.0, -9.0]], np.float32)
    shown = pixels(picture("x", plane, Scale(0, 2, "gray", levels=128), "x"))
    assert shown.shape == (2, 3, 3)
    np.testing.assert_allclose(shown[0, :, 0], [0, 128, 255], atol=1)
    np.testing.assert_array_equal(shown[1], [MISSING, (255,) * 3, (0,) * 3])


def test_one_scale_shows_the_same_value_in_the_same_colour() -> None:
    before, after = (
        np.linspace(0, 50, 100, dtype=np.float32).reshape(10, 10),
        np.full((10, 10), 25, np.float32),
    )
    after[0, 0] = 100
    scale = flux_scale([before, after, None], "Jy")
    a, b = (pixels(picture("x", p, scale, "x")) for p in (before, after))
    np.testing.assert_allclose(a[5, 0].astype(int), b[5, 5], atol=6)
    assert scale.top > 90
    places = scale.place([0, 1, 10, 50, 100])
    assert np.all(np.diff(places) > 0.03)


def test_a_diverging_scale_is_symmetric() -> None:
    shown = pixels(picture("x", np.array([[-5, 0, 5]], np.float32), symmetric_scale(5, "σ"), "x")).astype(int)
    low, middle, high = shown[0]
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert middle.min() > 240


@pytest.mark.parametrize(
    "scale",
    [
        Scale(0, 3e-18, "inferno", linear=0.08),
        Scale(-5, 5, "RdBu_r"),
        Scale(0, 7, "viridis"),
        Scale(-0.01, 3000, "inferno", linear=0.08),
    ],
)
def test_ticks_are_inside_and_apart(scale: Scale) -> None:
    places = [place for place, _ in scale.ticks]
    assert len(places) >= 2
    assert min(places) >= 0
    assert max(places) <= 100
    assert all(b - a >= 10 for a, b in pairwise(places))


@pytest.mark.parametrize("shape", [(360, 360), (361, 20), (1000, 700)])
def test_large_planes_are_averaged(shape: tuple[int, int]) -> None:
    plane = np.ones(shape, np.float32)
    plane[0, 0] = np.nan
    small = shrunk(plane)
    assert max(small.shape) <= LARGEST_SIDE
    np.testing.assert_array_equal(small[1:], 1)


def test_outlines_and_marks() -> None:
    plane, mask = np.zeros((50, 50), np.float32), np.zeros((50, 50), np.uint8)
    mask[10:14, 20:26] = 1
    mask[30, 30] = 2
    shown = pixels(outlined("x", plane, mask, Scale(0, 1, "gray"), "x"))
    factor = shown.shape[0] // 50
    edge = (shown == OUTLINE).all(axis=-1)
    assert edge[10 * factor, 20 * factor : 26 * factor].all()
    assert not edge[11 * factor + 1, 21 * factor + 1]
    assert edge.any(axis=1).sum() == 5 * factor
    filled = np.zeros((50, 50), np.uint8)
    filled[40, 40] = 2
    colours = pixels(marks("x", plane, mask, filled, Scale(0, 1, "gray"), "x"))
    assert len({tuple(c) for c in colours.reshape(-1, 3)}) == 4
    assert tuple(colours[40, 40]) == (204, 121, 167)
    assert tuple(colours[12, 22]) == (213, 94, 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1000, "1000"), (-5, "−5"), (10000, "10000"), (1e5, "10⁵"), (3e-7, "3×10⁻⁷"), (0.03, "0.03"), (-2.5e6, "−2.5×10⁶"), (-1e6, "−10⁶")],
)  # fmt: skip
def test_numbers_as_text(value: float, text: str) -> None:
    assert number_text(value) == text


def test_units_are_printed() -> None:
    assert unit_text("10**(-20)*erg/s/cm**2/Angstrom").startswith("10⁻²⁰ ")
    assert unit_text("") == ""
    assert unit_text("<b>counts</b>") == "<b>counts</b>"


def test_a_chart_stays_inside_and_is_interrupted() -> None:
    y = np.array([1.0, 2, np.nan, 4, 5])
    made = chart(
        "t", [Line("a", np.arange(5.0), y)], x_label="x", y_label="y", alt="t", levels=[(9.0, "limit")]
    )
    assert made is not None
    path = str(made.curves[0]["path"])
    assert path.count("M") == 2
    numbers = [float(n) for n in path.replace("M", " ").replace("L", " ").split()]
    assert min(numbers) > 0
    assert max(numbers[::2]) < WIDTH
    assert max(numbers[1::2]) < HEIGHT
    assert 0 < made.levels[0][0] < min(numbers[1::2])


def test_a_logarithmic_chart_leaves_out_what_is_not_positive() -> None:
    y = np.array([0.0, -1, 1e-3, 1e3])
    made = chart("t", [Line("a", np.arange(4.0), y)], x_label="x", y_label="y", alt="t", log=True)
    assert made is not None
    assert {text for _, text in made.y_ticks} >= {"0.1", "10"}
    assert (
        chart("t", [Line("a", np.arange(2.0), np.zeros(2))], x_label="", y_label="", alt="", log=True) is None
    )


@pytest.mark.parametrize("y", [np.zeros(3), np.ones(1), np.full(4, -7.0)])
def test_a_constant_has_a_chart(y: np.ndarray) -> None:
    assert chart("t", [Line("a", np.arange(len(y)), y)], x_label="", y_label="", alt="") is not None


def test_the_citation_is_that_of_the_repository() -> None:
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (known["title"], known["authors"][0]["name"]) == (TITLE, AUTHORS)
    assert f"version {known['version']}" in citation()
    assert f"version = {{{known['version']}}}" in bibtex()


def test_stop_reasons_with_their_planes() -> None:
    texts = ["done", "done", "noise", "done", "no PSF", "no PSF"]
    product = types.SimpleNamespace(table=lambda name: {"stop_reason_text": texts})
    wanted = [("done", 3, "1 to 2, 4"), ("noise", 1, "3"), ("no PSF", 2, "5 to 6")]
    assert stop_reasons(product) == wanted  # type: ignore[arg-type]
    texts[:] = ["a", "b"] * 20
    assert stop_reasons(product)[0][2].endswith("23 and 8 more")  # type: ignore[arg-type]
