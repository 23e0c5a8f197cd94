"""Spectral and celestial coordinates: reading of headers, and updates of their cards."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from locations import SHARED
from lucidcube.errors import CubeError
from lucidcube.io.axes import Axes, find_axes
from lucidcube.io.spectral import spectral_grid, spectral_unit
from lucidcube.io.spectral_cards import override_cards, spectral_cards, wavelength_table
from lucidcube.io.wcs import celestial_wcs, reorder_axes, slice_cards


def header(n: int = 8, **cards: object) -> fits.Header:
    made = fits.Header()
    made.update(SIMPLE=True, BITPIX=-32, NAXIS=3, NAXIS1=6, NAXIS2=5, NAXIS3=n)
    made.update(
        CTYPE1="RA---TAN",
        CRVAL1=45.0,
        CRPIX1=3.0,
        CUNIT1="deg",
        CTYPE2="DEC--TAN",
        CRVAL2=-10.0,
        CRPIX2=2.5,
        CUNIT2="deg",
    )
    made.update(CTYPE3="AWAV", CUNIT3="Angstrom", CRVAL3=4750.0, CRPIX3=3.0, OBJECT="Neptune")
    made.update(CD1_1=-1e-4, CD1_2=2e-5, CD2_1=2e-5, CD2_2=1e-4, CD3_3=1.25)
    for keyword, value in cards.items():
        if value is None:
            del made[keyword]
        else:
            made[keyword] = value
    return made


def grid(of: fits.Header) -> NDArray[np.float64]:
    return np.asarray(spectral_grid(of, 3, of["NAXIS3"]).values)


def without(of: fits.Header, *prefixes: str) -> list[str]:
    return [str(card) for card in of.cards if not card.keyword.startswith(prefixes)]


@pytest.mark.parametrize(
    ("spelling", "scale", "si"),
    [
        ("Angstrom", 1e-10, "m"), ("angstrom", 1e-10, "m"), ("ANGSTROMS", 1e-10, "m"), ("A", 1e-10, "m"),
        ("nm", 1e-9, "m"), ("um", 1e-6, "m"), ("Microns", 1e-6, "m"), ("micron", 1e-6, "m"), ("m", 1, "m"),
        ("0.1nm", 1e-10, "m"), ("Hz", 1, "Hz"), ("HZ", 1, "Hz"), ("GHz", 1e9, "Hz"), ("km/s", 1e3, "m/s"),
        ("km s-1", 1e3, "m/s"), ("m s-1", 1, "m/s"), ("M/S", 1, "m/s"), ("[um]", 1e-6, "m"),
    ],
)  # fmt: skip
def test_spellings_of_units(spelling: str, scale: float, si: str) -> None:
    unit = spectral_unit(spelling)
    assert unit is not None
    assert unit.si == si
    assert unit.scale == pytest.approx(scale)


@pytest.mark.parametrize(
    "spelling", ["", "deg", "DEGREE", "pixel", "furlongs", "STOKES", "eV", "s", "10**-20"]
)
def test_other_text_is_not_a_spectral_unit(spelling: str) -> None:
    assert spectral_unit(spelling) is None


@pytest.mark.parametrize(
    ("cards", "expected", "si", "ctype"),
    [
        ({}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e-10, "m", "AWAV"),
        ({"CD3_3": None, "CDELT3": 1.25}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e-10, "m", "AWAV"),
        ({"CD3_3": None, "CDELT3": 2.5, "PC3_3": 0.5}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e-10, "m", "AWAV"),
        ({"CRPIX3": -100.0, "CTYPE3": "LINEAR"}, (4750 + 1.25 * (np.arange(8) + 101)) * 1e-10, "m", "WAVE"),
        ({"CTYPE3": "LAMBDA", "CUNIT3": None}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e-10, "m", "WAVE"),
        ({"CTYPE3": "WAVE", "CUNIT3": None, "CRVAL3": 2.1, "CD3_3": 0.1}, (2.1 + 0.1 * (np.arange(8) - 2)) * 1e-6, "m", "WAVE"),
        ({"CTYPE3": "WAVE", "CUNIT3": None, "CRVAL3": 5e-7, "CD3_3": 1e-9}, 5e-7 + 1e-9 * (np.arange(8) - 2), "m", "WAVE"),
        ({"CTYPE3": "FREQ", "CUNIT3": "GHz"}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e9, "Hz", "FREQ"),
        ({"CTYPE3": "VRAD", "CUNIT3": None}, 4750 + 1.25 * (np.arange(8) - 2), "m/s", "VRAD"),
        ({"CTYPE3": "VELO-LSR", "CUNIT3": "km/s"}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e3, "m/s", "VELO"),
        ({"CTYPE3": "PIXEL", "CUNIT3": "Microns"}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e-6, "m", "WAVE"),
        ({"CTYPE3": "LINEAR", "CUNIT3": None, "CRVAL3": 3.6, "CD3_3": 1e-3, "DC-FLAG": 1}, None, "", ""),
        ({"CTYPE3": None, "CUNIT3": None, "CRVAL3": None, "CRPIX3": None, "CD3_3": None}, np.arange(1.0, 9), "", ""),
        ({"CRVAL3": "4750.0"}, (4750 + 1.25 * (np.arange(8) - 2)) * 1e-10, "m", "AWAV"),
    ],
)  # fmt: skip
def test_positions_of_the_channels(
    cards: dict[str, object], expected: NDArray[np.float64] | None, si: str, ctype: str
) -> None:
    found = spectral_grid(header(**cards), 3, 8)
    if expected is None:
        expected, si, ctype = 10 ** (3.6 + 1e-3 * (np.arange(8) - 2)) * 1e-10, "m", "WAVE"
    np.testing.assert_allclose(found.values, expected, rtol=1e-13)
    assert (found.si, found.ctype) == (si, ctype)


@pytest.mark.parametrize(
    "cards",
    [
        {},
        {"CTYPE3": "WAVE-LOG", "CD3_3": 0.83},
        {"CTYPE3": "VOPT-F2W", "CUNIT3": "m/s", "CRVAL3": 1e6, "CD3_3": 1e4, "RESTFRQ": 1.42e9},
        {"CTYPE3": "FREQ-W2F", "CUNIT3": "Hz", "CRVAL3": 1e9, "CD3_3": 1e6},
    ],
)
def test_positions_agree_with_wcslib(cards: dict[str, object]) -> None:
    made = header(**cards)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = WCS(made).sub([3]).wcs_pix2world(np.arange(1.0, 9), 1)[0]
    np.testing.assert_allclose(grid(made), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"CUNIT3": "furlong"}, "CUNIT3 = 'furlong'"),
        ({"CD3_3": 0.0, "CDELT3": 0.0}, "not strictly monotonic"),
        ({"CRVAL3": "many"}, "CRVAL3 = 'many'"),
        ({"CTYPE3": "WAVE-LOG", "CRVAL3": 0.0}, "CRVAL3 is 0"),
        ({"CTYPE3": "WAVE-LOG", "CRVAL3": 1e-9}, "overflow"),
        ({"CTYPE3": "ENER", "CUNIT3": "eV"}, "neither wavelength nor frequency"),
        ({"CTYPE3": "WAVE", "CUNIT3": None, "CRVAL3": 1e9}, "none can be guessed"),
        ({"CTYPE3": "WAVE-TAB"}, "cannot be found"),
        ({"CTYPE3": "VOPT-F2W", "CUNIT3": "m/s"}, "RESTFRQ or RESTWAV"),
    ],
)
def test_invalid_spectral_axes_are_errors(cards: dict[str, object], message: str) -> None:
    with pytest.raises(CubeError, match=message):
        grid(header(**cards))


@pytest.mark.parametrize(
    ("ctypes", "shape", "expected"),
    [
        (("RA---TAN", "DEC--TAN", "AWAV"), (9, 5, 6), Axes(0, 1, 2)),
        (("GLON-CAR", "GLAT-CAR", "VOPT"), (9, 5, 6), Axes(0, 1, 2)),
        (("HPLN-TAN", "HPLT-TAN"), (5, 6), Axes(None, 0, 1)),
        (("PIXEL", "PIXEL", "WAVE"), (2, 5, 6), Axes(0, 1, 2)),
        (("LINEAR", "LINEAR", "LAMBDA"), (9, 5, 6), Axes(0, 1, 2)),
        (("WAVE", "RA---TAN", "DEC--TAN"), (5, 6, 9), Axes(2, 0, 1)),
        (("RA---NCP", "POL", "FREQ", "DEC--NCP"), (5, 9, 1, 6), Axes(1, 0, 3)),
        (("RA---SIN", "DEC--SIN", "STOKES", "FREQ"), (9, 1, 5, 6), Axes(0, 2, 3)),
        (("RA---ARC", "DEC--ARC", "VRAD", ""), (1, 7, 4, 3), Axes(1, 2, 3)),
        (("RA---TAN", "DEC--TAN", ""), (3, 5, 6), Axes(0, 1, 2)),
        (("RA---TAN", "DEC--TAN", "FREQ", "VRAD"), (1, 7, 5, 6), Axes(1, 2, 3)),
        (("", ""), (5, 6), Axes(None, 0, 1)),
        (("", "", ""), (1, 5, 6), Axes(None, 1, 2)),
        (("RA---TAN", "DEC--TAN", "WAVE"), (9, 1, 1), Axes(0, 1, 2)),
        (("", "", "WAVE"), (9, 1, 6), Axes(0, 1, 2)),
        (("DEC--TAN", "RA---TAN", "WAVE"), (9, 5, 6), Axes(0, 1, 2)),
    ],
)
def test_axes_are_found_by_their_types(
    ctypes: tuple[str, ...], shape: tuple[int, ...], expected: Axes
) -> None:
    made = fits.Header({f"CTYPE{n}": ctype for n, ctype in enumerate(ctypes, start=1) if ctype})
    assert find_axes(made, shape) == expected


def test_ambiguous_axes_are_errors() -> None:
    for ctypes, shape in (
        (("", "", ""), (9, 5, 6)),
        (("WAVE", "RA---TAN"), (5, 6)),
        (("RA---TAN", "DEC--TAN", "STOKES"), (4, 5, 6)),
        (("RA---TAN", "DEC--TAN", "FREQ", "VRAD"), (7, 7, 5, 6)),
        (("", ""), (6,)),
    ):
        made = fits.Header({f"CTYPE{n}": ctype for n, ctype in enumerate(ctypes, start=1) if ctype})
        with pytest.raises(CubeError, match=r"c\.fits") as error:
            find_axes(made, shape, name="c.fits")
        assert "\n" not in str(error.value)


def test_the_choice_of_the_user_has_precedence() -> None:
    made = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "AWAV"})
    assert find_axes(made, (9, 5, 6), spectral=2, celestial=(0, 1)) == Axes(2, 0, 1)
    assert find_axes(made, (9, 5, 6), celestial=(2, 1)) == Axes(0, 2, 1)
    assert find_axes(made, (9, 5, 6), spectral=-3) == Axes(0, 1, 2)
    assert find_axes(fits.Header(), (9, 5, 6), spectral=1) == Axes(1, 0, 2)


def test_the_same_grid_changes_no_card() -> None:
    for cards in ({}, {"CTYPE3": "WAVE-LOG"}, {"CTYPE3": "LINEAR"}, {"CUNIT3": None, "CTYPE3": "LAMBDA"}):
        made = header(**cards)
        assert spectral_cards(made, grid(made) * (1 + 1e-12), axis=3).tostring() == made.tostring()


@pytest.mark.parametrize(
    "cards",
    [
        {},
        {"CUNIT3": "um", "CRVAL3": 0.475, "CD3_3": 1.25e-4},
        {"CUNIT3": "nm", "CRVAL3": 475.0, "CD3_3": None, "CDELT3": 0.125},
        {"CD3_3": None, "CDELT3": 2.5, "PC3_3": 0.5},
        {"CDELT3": 1.25},
        {"CTYPE3": "WAVE-LOG"},
        {"CTYPE3": "LINEAR", "DC-FLAG": 0},
        {"CTYPE3": "LAMBDA", "CUNIT3": None},
        {"CTYPE3": "VOPT-F2W", "CUNIT3": "m/s", "RESTFRQ": 1e9, "PV3_0": 0.0},
        {"CRVAL3": None, "CRPIX3": None, "CD3_3": None},
    ],
)
def test_a_new_uniform_grid_is_read_back(cards: dict[str, object]) -> None:
    made = header(**cards)
    first = 5e-7 if cards.get("CUNIT3") != "m/s" else 100.0
    new = first + first / 500 * np.arange(5)
    result = spectral_cards(made, new, axis=3)
    np.testing.assert_allclose(grid(result), new, rtol=1e-12)
    assert result["NAXIS3"] == 5
    assert result["CRPIX3"] == 1.0
    assert "-" not in result["CTYPE3"]
    if "CUNIT3" in made:
        assert result["CUNIT3"] == made["CUNIT3"]
    assert ("CD3_3" in result) == ("CD3_3" in made or "CDELT3" not in made)
    axis = ("CTYPE3", "CUNIT3", "CRVAL3", "CRPIX3", "CD3_3", "CDELT3", "PC3_3", "NAXIS3", "PV3")
    assert without(result, *axis) == without(made, *axis)
    if cards.get("CTYPE3", "AWAV")[:4] in ("AWAV", "WAVE") and "PC3_3" not in cards:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            by_wcslib = WCS(result).sub([3]).wcs_pix2world(np.arange(1.0, 6), 1)[0]
        if "CDELT3" not in cards or "CD3_3" not in cards or cards["CD3_3"] is not None:
            np.testing.assert_allclose(by_wcslib, new, rtol=1e-12)


def test_cards_are_rounded_to_short_decimals() -> None:
    result = spectral_cards(header(), 4.75e-7 + 1e-9 * np.arange(6), axis=3)
    assert (result["CRVAL3"], result["CD3_3"], result["CUNIT3"]) == (4750.0, 10.0, "Angstrom")


def test_a_grid_of_one_channel_keeps_the_step() -> None:
    result = spectral_cards(header(), np.array([5e-7]), axis=3)
    assert (result["CRVAL3"], result["CD3_3"], result["NAXIS3"]) == (5000.0, 1.25, 1)


def test_decreasing_grids() -> None:
    new = 5e-7 - 1e-9 * np.arange(6)
    np.testing.assert_allclose(grid(spectral_cards(header(), new, axis=3)), new, rtol=1e-12)


def test_logarithmic_grids_stay_logarithmic() -> None:
    new = np.geomspace(5e-7, 6e-7, 12)
    for ctype in ("WAVE-LOG", "AWAV"):
        result = spectral_cards(header(CTYPE3=ctype), new, axis=3)
        assert result["CTYPE3"] == f"{ctype[:4]}-LOG"
        np.testing.assert_allclose(grid(result), new, rtol=1e-12)


def test_any_other_grid_becomes_a_table(tmp_path: Path) -> None:
    new = np.array([5.0, 5.1, 5.3, 5.35, 6.0]) * 1e-7
    result = spectral_cards(header(), new, axis=3)
    assert result["CTYPE3"] == "AWAV-TAB"
    table = wavelength_table(result, new, axis=3)
    assert table is not None
    assert wavelength_table(header(), grid(header()), axis=3) is None
    data = np.zeros((5, 5, 6), np.float32)
    fits.HDUList([fits.PrimaryHDU(data, result), table]).writeto(tmp_path / "c.fits")
    with fits.open(tmp_path / "c.fits") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_wcslib = WCS(file[0].header, fobj=file).wcs_pix2world([[3.0, 2.5, n] for n in range(1, 6)], 1)[
            :, 2
        ]
        np.testing.assert_allclose(by_wcslib, new * 1e10, rtol=1e-12)  # it keeps the unit
        columns = {name: file[1].data[name][0].ravel() for name in file[1].columns.names}
    found = spectral_grid(result, 3, 5, lambda name, version, column: columns[column])
    np.testing.assert_allclose(found.values, new, rtol=1e-12)
    back = spectral_cards(result, 5e-7 + 1e-9 * np.arange(4), axis=3)
    assert back["CTYPE3"] == "AWAV"
    assert "PS3_0" not in back


def test_alternate_descriptions_are_updated() -> None:
    made = header(CTYPE3A="VELO", CUNIT3A="m/s", CRVAL3A=100.0, CRPIX3A=3.0, CDELT3A=50.0)
    new = (4750 + 2.5 * (np.arange(4) - 0.5)) * 1e-10
    result = spectral_cards(made, new, axis=3)
    velocity = 100 + 50 * (new * 1e10 - 4750) / 1.25
    found = result["CRVAL3A"] + result["CDELT3A"] * (np.arange(1, 5) - result["CRPIX3A"])
    np.testing.assert_allclose(found, velocity)
    assert not [
        key
        for key in spectral_cards(made, np.geomspace(5e-7, 9e-7, 9), axis=3)
        if key.endswith("A") and key[:-1] in made
    ]


def test_cards_are_overridden_by_the_user() -> None:
    made = override_cards(header(CTYPE3="PIXEL", CUNIT3=None), 3, 1.0, 0.5, "um")
    np.testing.assert_allclose(grid(made), (1 + 0.5 * np.arange(8)) * 1e-6)
    np.testing.assert_allclose(grid(override_cards(header(), 3, None, None, "nm")), grid(header()) * 10)
    np.testing.assert_allclose(
        grid(override_cards(header(), 3, 4000.0, None, None))[:2], [4000e-10, 4001.25e-10]
    )
    np.testing.assert_allclose(grid(override_cards(header(), 3, None, 2.0, None))[2:4], [4750e-10, 4752e-10])
    assert override_cards(header(), 3, None, None, "GHz")["CTYPE3"] == "FREQ"
    with pytest.raises(CubeError, match="not a unit"):
        override_cards(header(CUNIT3=None), 3, 1.0, None, None)


AXIS = st.integers(1, 3)
START, STEP = st.integers(-3, 3), st.sampled_from([-3, -1, 1, 2, 4])
MATRICES: list[dict[str, object]] = [
    {},
    {"CDELT3": 1.25},
    {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None, "CD3_3": None, "CDELT1": -1e-4, "CDELT2": 1e-4, "CDELT3": 1.25},
    {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None, "CD3_3": None, "CDELT1": -1e-4, "CDELT2": 1e-4,
     "CDELT3": 1.25, "PC1_2": 0.3, "PC2_1": -0.3},
]  # fmt: skip


@given(AXIS, START, STEP, st.sampled_from(MATRICES))
def test_slices_keep_the_world_coordinates_of_pixels(
    n: int, start: int, step: int, matrix: dict[str, object]
) -> None:
    made = header(**matrix)
    kept = range(start % made[f"NAXIS{n}"], 99 * step, step)[:2]
    kept = range(kept[0], kept[0] + len(kept) * step, step)
    sliced = slice_cards(made, n, kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old, new = WCS(made), WCS(sliced)
        for i, pixel in enumerate(kept):
            place = np.array([2.0, 2.0, 2.0])
            moved = place.copy()
            place[n - 1], moved[n - 1] = pixel, i
            np.testing.assert_allclose(
                new.wcs_pix2world([moved], 0), old.wcs_pix2world([place], 0), rtol=1e-12
            )
    assert sliced[f"NAXIS{n}"] == 2


def test_slices_that_keep_everything_change_no_card() -> None:
    made = header()
    assert slice_cards(made, 3, range(8)).tostring() == made.tostring()
    bare = fits.Header({"NAXIS": 2, "NAXIS1": 6, "NAXIS2": 5})
    assert list(slice_cards(bare, 1, range(2, 4))) == list(bare)


@given(st.permutations([1, 2, 3]), st.sampled_from(MATRICES))
def test_reordered_axes_describe_the_same_sky(order: list[int], matrix: dict[str, object]) -> None:
    made = header(**matrix)
    turned = reorder_axes(made, order)
    assert [turned[f"NAXIS{n}"] for n in (1, 2, 3)] == [made[f"NAXIS{n}"] for n in order]
    assert len(turned) == len(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixel = np.array([1.0, 2.0, 4.0])
        old = WCS(made).wcs_pix2world([pixel], 1)[0]
        new = WCS(turned).wcs_pix2world([pixel[np.array(order) - 1]], 1)[0]
    np.testing.assert_allclose(new, old[np.array(order) - 1], rtol=1e-12)


def test_only_the_third_parameter_of_a_table_is_the_number_of_an_axis() -> None:
    distorted = header(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", PV1_3=1.0)
    assert reorder_axes(distorted, [3, 1, 2])["PV2_3"] == 1.0
    table = header(CTYPE3="WAVE-TAB", PV3_3=3)
    assert reorder_axes(table, [3, 1, 2])["PV1_3"] == 1


def test_sky_coordinates() -> None:
    made = header(CUNIT3="Microns")  # which wcslib refuses
    sky = celestial_wcs(made)
    np.testing.assert_allclose(sky.wcs_pix2world([[3.0, 2.5]], 1), [[45.0, -10.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = WCS(header()).celestial.wcs_pix2world([[5.0, 1.0]], 1)
    np.testing.assert_allclose(sky.wcs_pix2world([[5.0, 1.0]], 1), expected, rtol=1e-13)
    with pytest.raises(CubeError, match="no sky coordinates"):
        celestial_wcs(header(CTYPE1="LINEAR", CTYPE2="LINEAR"))
    with pytest.raises(CubeError, match="sky coordinates"):
        celestial_wcs(header(CTYPE2="DEC--SIN"))


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data")
def test_sky_coordinates_of_real_files() -> None:
    for name, ext in {
        "muse_udf_subcube": 1, "scarlet_Cut_HSC": 0, "sdo_hmi_disc_100px": 0, "spitzer_irac_ch2_field": 0,
        "l1448_13co": 0, "stokes4d_example_cube": 0, "hdr_manga_logcube": 1, "scuba850_variance_quality": 0,
        "int16_cube_no_axis3_wcs": 0, "int16_bscale_blank": 0,
    }.items():  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = fits.getheader(SHARED / f"data/{name}.fits", ext)
            sky = celestial_wcs(made)
            place = sky.wcs_pix2world([[1.0, 1.0], [4.0, 3.0]], 1)
            assert np.isfinite(place).all(), name
            if name.startswith("int16_cube"):  # astropy runs out of memory on it
                np.testing.assert_allclose(place[0], [made["CRVAL1"], made["CRVAL2"]], atol=0.05)
                continue
            np.testing.assert_allclose(
                place, WCS(made).celestial.wcs_pix2world([[1.0, 1.0], [4.0, 3.0]], 1), rtol=1e-12
            )
