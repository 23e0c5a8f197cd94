"""Opening FITS files as cubes: numbers, laziness, unusual files, damaged files."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from locations import SHARED
from lucidcube.errors import ConfigError, CubeError, UserError
from lucidcube.io import staging as scratch_files
from lucidcube.io.plane_reader import Encoding, PlaneReader, to_float32
from lucidcube.io.reader import file_identity, open_cube
from lucidcube.io.specifier import parse_specifier
from lucidcube.io.tables import read_provenance

RNG_SEED = 20


def cards(**more: object) -> fits.Header:
    header = fits.Header()
    header.update(
        CTYPE1="RA---TAN",
        CTYPE2="DEC--TAN",
        CTYPE3="AWAV",
        CUNIT3="Angstrom",
        CRVAL3=4750.0,
        CRPIX3=1.0,
        CDELT3=1.25,
    )
    header.update(more)
    return header


def numbers(shape: tuple[int, ...] = (7, 5, 6)) -> NDArray[np.float32]:
    return np.random.default_rng(RNG_SEED).normal(size=shape).astype(np.float32)


def write(path: Path, data: NDArray[np.generic] | None = None, header: fits.Header | None = None) -> Path:
    fits.PrimaryHDU(numbers() if data is None else data, cards() if header is None else header).writeto(path)
    return path


def muse(path: Path, values: NDArray[np.float32] | None = None) -> Path:
    data, stat = (
        fits.ImageHDU(numbers() if values is None else values, cards(BUNIT="Jy"), name="DATA"),
        fits.ImageHDU(numbers() ** 2, name="STAT"),
    )
    fits.HDUList([fits.PrimaryHDU(), data, stat]).writeto(path)
    return path


def test_a_cube_has_the_numbers_and_coordinates_of_its_file(tmp_path: Path) -> None:
    cube = open_cube(f"{muse(tmp_path / 'cube.fits')}", block=3)
    assert cube["data"].dims == ("wavelength", "y", "x")
    assert cube["data"].chunks == ((3, 3, 1), (5,), (6,))
    assert cube["data"].dtype == cube["variance"].dtype == np.float32
    np.testing.assert_array_equal(cube["data"].values, numbers())
    np.testing.assert_array_equal(cube["variance"].values, numbers() ** 2)
    np.testing.assert_allclose(cube["wavelength"].values, (4750 + 1.25 * np.arange(7)) * 1e-10, rtol=1e-14)
    assert cube["wavelength"].attrs == {"units": "m", "ctype": "AWAV", "axis": 3}
    assert cube["channel"].values.tolist() == list(range(7))
    assert cube["data"].attrs["units"] == "Jy"
    assert cube["variance"].attrs["units"] == "(Jy)**2"
    assert cube.attrs["bitpix"] == -32
    assert cube.attrs["scale_exponent"] == 0
    with fits.open(tmp_path / "cube.fits") as file:
        for text, header in (
            (cube.attrs["header"], file[1].header),
            (cube.attrs["primary_header"], file[0].header),
        ):
            assert fits.Header.fromstring(text, sep="\n").tostring() == header.tostring()


def test_opening_reads_no_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = muse(tmp_path / "cube.fits")
    read: list[tuple[int, ...]] = []
    real = PlaneReader.read
    monkeypatch.setattr(PlaneReader, "read", lambda self: (read.append(self.shape), real(self))[1])
    cube = open_cube(str(path), block=2)
    assert not read
    np.testing.assert_array_equal(cube["data"][2:3].values, numbers()[2:3])
    assert all(shape[0] <= 2 for shape in read)


def test_default_block(tmp_path: Path) -> None:
    path = write(tmp_path / "cube.fits", np.zeros((40, 512, 512), np.uint8))
    assert open_cube(str(path))["data"].chunks[0] == (2,) * 20
    with pytest.raises(ConfigError, match="at least one plane"):
        open_cube(str(path), block=0)


def test_graph_names_are_stable_and_differ_between_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.fits"), write(tmp_path / "2.fits")
    names = [open_cube(text)["data"].data.name for text in (str(one), str(one), f"{one}[1:]", str(two))]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_the_reader_is_small_and_picklable(tmp_path: Path) -> None:
    cube = open_cube(str(muse(tmp_path / "cube.fits")), block=1)
    assert len(pickle.dumps(cube["data"].data.dask)) < 20_000
    assert pickle.loads(pickle.dumps(cube)).equals(cube)


INDEX = st.integers(-9, 9)
SLICE = st.builds(slice, st.none() | INDEX, st.none() | INDEX, st.none() | INDEX.filter(bool))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(SLICE, SLICE, SLICE), st.booleans(), st.integers(1, 4))
def test_slices_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, slices: tuple[slice, slice, slice], swapped: bool, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "sliced.fits"
    if not path.exists():
        write(path)
    expected = numbers()[slices]
    text = ",".join(":".join("" if n is None else str(n) for n in (s.start, s.stop, s.step)) for s in slices)
    specifier = f"{path}[{text}]" + ("(2,1)" if swapped else "")
    if not expected.size:
        with pytest.raises(CubeError, match="leaves nothing of axis"):
            open_cube(specifier)
        return
    cube = open_cube(specifier, block=block)
    np.testing.assert_array_equal(cube["data"].values, expected.transpose(0, 2, 1) if swapped else expected)
    np.testing.assert_array_equal(cube["channel"], np.arange(7)[slices[0]])
    again = fits.Header.fromstring(cube.attrs["header"], sep="\n")
    assert tuple(again[f"NAXIS{n}"] for n in (3, 2, 1)) == cube["data"].shape
    crval = again["CRVAL3"] + again["CDELT3"] * (np.arange(1, len(cube["wavelength"]) + 1) - again["CRPIX3"])
    np.testing.assert_allclose(crval * 1e-10, cube["wavelength"], rtol=1e-13)


@given(st.tuples(SLICE, SLICE, SLICE), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_the_reader_slices_like_numpy(keys: tuple[slice, slice, slice], whole: tuple[bool, ...]) -> None:
    key = tuple(k if w else (k.start or 0) % 3 for k, w in zip(keys, whole, strict=True))
    expected = READER_NUMBERS[1:7:2, ::-1][key]
    np.testing.assert_array_equal(READER[0][key], expected)


READER_NUMBERS = numbers((9, 5, 6))
READER: list[PlaneReader] = []


@pytest.fixture(autouse=True, scope="module")
def _reader(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("reader") / "raw"
    path.write_bytes(b"head" + READER_NUMBERS.astype(">f4").tobytes())
    stat = path.stat()
    READER[:] = [
        PlaneReader(
            str(path), stat.st_size, stat.st_mtime_ns, 4, 120, 5, 6, False, Encoding(">f4"), "data", 0, 9,
            range(1, 7, 2), range(4, -1, -1), range(6),
        )
    ]  # fmt: skip


@pytest.mark.parametrize("order", [(2, 0, 1), (2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0)])
def test_any_order_of_axes(
    tmp_path: Path, order: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_files, "SLAB", 200)
    data = numbers((7, 5, 6))
    header = cards()
    stored = fits.Header()
    for place, axis in enumerate(reversed(order), start=1):  # FITS counts backwards
        for name in ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CDELT"):
            if f"{name}{3 - axis}" in header:
                stored[f"{name}{place}"] = header[f"{name}{3 - axis}"]
    path = write(tmp_path / "cube.fits", np.ascontiguousarray(data.transpose(order)), stored)
    places = {axis: order.index(axis) for axis in range(3)}
    cube = open_cube(
        f"{path}{{CELESTIAL:({places[1]},{places[2]}),SPECTRAL:({places[0]})}}", scratch=tmp_path / "s"
    )
    np.testing.assert_array_equal(cube["data"].values, data)
    header = fits.Header.fromstring(cube.attrs["header"], sep="\n")
    assert [header[f"CTYPE{n}"] for n in (1, 2, 3)] == ["RA---TAN", "DEC--TAN", "AWAV"]
    assert [header[f"NAXIS{n}"] for n in (1, 2, 3)] == [6, 5, 7]
    by_ctype = open_cube(str(path), scratch=tmp_path / "s")
    y_first = places[1] < places[2]
    np.testing.assert_array_equal(by_ctype["data"].values, data if y_first else data.transpose(0, 2, 1))


def test_axes_of_length_one_are_restored(tmp_path: Path) -> None:
    header = cards(CTYPE3="STOKES", CUNIT3="", CTYPE4="FREQ", CRVAL4=1e9, CDELT4=1e6, CRPIX4=1.0)
    path = write(tmp_path / "casa.fits", numbers((7, 1, 5, 6)), header)
    cube = open_cube(str(path))
    np.testing.assert_array_equal(cube["data"].values, numbers((7, 1, 5, 6))[:, 0])
    header = fits.Header.fromstring(cube.attrs["header"], sep="\n")
    assert [header[f"NAXIS{n}"] for n in (4, 3, 2, 1)] == [7, 1, 5, 6]
    assert cube["wavelength"].attrs == {"units": "Hz", "ctype": "FREQ", "axis": 4}


def test_one_element_of_a_fourth_axis(tmp_path: Path) -> None:
    header = cards(CTYPE3="STOKES", CUNIT3="", CTYPE4="FREQ", CRVAL4=1e9, CDELT4=1e6, CRPIX4=1.0)
    path = write(tmp_path / "casa.fits", numbers((7, 3, 5, 6)), header)
    with pytest.raises(CubeError, match=r"axis 1 \(STOKES, 3 long\).*\[:,0,:,:\]"):
        open_cube(str(path))
    np.testing.assert_array_equal(open_cube(f"{path}[1:,2]")["data"].values, numbers((7, 3, 5, 6))[1:, 2])


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_stored_types_and_scaling(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(RNG_SEED)
    stored = rng.integers(0, 100, (4, 3, 5)).astype(kind)
    stored[1, 2, 3] = 42
    integer = kind[0] in "iu"
    path = tmp_path / "cube.fits"
    fits.PrimaryHDU(stored, cards()).writeto(path)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as file:
        file[0].header.update({"BSCALE": 0.1, "BZERO": 7.0} | ({"BLANK": 42} if integer else {}))
    expected = 0.1 * stored.astype(float) + 7.0
    if integer:
        expected[stored == 42] = np.nan
    np.testing.assert_array_equal(open_cube(str(path))["data"].values, expected.astype(np.float32))


def test_unsigned_integers(tmp_path: Path) -> None:
    stored = np.array([0, 1, 32767, 32768, 65535, 5], np.uint16).reshape(1, 2, 3)
    path = write(tmp_path / "cube.fits", stored)
    np.testing.assert_array_equal(open_cube(str(path))["data"].values, stored.astype(np.float32))


def test_blank_of_a_float_file_is_ignored(tmp_path: Path) -> None:
    data = np.full((1, 2, 3), -32768.0, np.float32)
    path = tmp_path / "cube.fits"
    fits.PrimaryHDU(data).writeto(path)
    raw = bytearray(path.read_bytes())
    end = raw.index(b"END     ")
    raw[end : end + 160] = f"{'BLANK   =               -32768':<80}{'END':<80}".encode()
    path.write_bytes(raw)
    np.testing.assert_array_equal(open_cube(f"{path}(1,2)")["data"].values, data)


def test_infinities_and_what_float32_cannot_hold_become_nan(tmp_path: Path) -> None:
    data = np.array([np.inf, -np.inf, 1e300, -1e300, np.nan, 1.0, 2.0, 3.0, 4.0]).reshape(3, 3)
    for kind in ("f8", "f4"):
        with np.errstate(over="ignore"):
            path = write(tmp_path / f"{kind}.fits", data.astype(kind), fits.Header())
        values = open_cube(str(path))["data"].values
        assert values[np.isfinite(values)].tolist() == [1, 2, 3, 4]
        assert not np.isinf(values).any()


@pytest.mark.parametrize(
    ("name", "stored", "variance"),
    [
        ("STAT", [1, 4, 0], [1, 4, 0]),
        ("VARIANCE", [1, 4, 0], [1, 4, 0]),
        ("ERR", [1, 4, 0], [1, 16, 0]),
        ("IVAR", [1, 4, 0], [1, 0.25, np.nan]),
    ],
)
def test_all_kinds_of_errors_become_variances(
    tmp_path: Path, name: str, stored: list[float], variance: list[float]
) -> None:
    data = np.ones((1, 3), np.float32)
    hdus = [fits.PrimaryHDU(data), fits.ImageHDU(np.array([stored], np.float32), name=name)]
    fits.HDUList(hdus).writeto(tmp_path / "cube.fits")
    np.testing.assert_array_equal(open_cube(str(tmp_path / "cube.fits"))["variance"].values[0, 0], variance)
    assert "variance" not in open_cube(f"{tmp_path / 'cube.fits'}{{{name}}}")


def test_variance_named_by_the_header(tmp_path: Path) -> None:
    science = fits.ImageHDU(numbers(), cards(ERRDATA="NOISE"), name="IFU.1")
    noise = fits.ImageHDU(numbers(), fits.Header({"HDUCLAS3": "RMSE"}), name="NOISE")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(numbers(), name="OTHER"), science, noise]).writeto(
        tmp_path / "c.fits"
    )
    cube = open_cube(f"{tmp_path / 'c.fits'}{{ifu.1}}")
    np.testing.assert_allclose(cube["variance"].values, numbers() ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "kind"), [(1e-20, "f4"), (1e-16, "f8"), (1e-150, "f8"), (1e18, "f4"), (1e100, "f8")]
)
def test_numbers_near_the_limits_are_scaled_exactly(tmp_path: Path, size: float, kind: str) -> None:
    data = (numbers().astype(float) * size).astype(kind)
    error = np.abs(data)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, cards(), name="SCI"), fits.ImageHDU(error, name="ERR")]
    fits.HDUList(hdus).writeto(tmp_path / "cube.fits")
    cube = open_cube(str(tmp_path / "cube.fits"))
    exponent = cube.attrs["scale_exponent"]
    assert 0.1 < np.median(np.abs(cube["data"].values)) < 10
    if kind == "f4":
        np.testing.assert_array_equal(np.ldexp(cube["data"].values, -exponent), data)
    np.testing.assert_allclose(np.ldexp(cube["data"].values.astype(float), -exponent), data, rtol=1e-7)
    np.testing.assert_allclose(
        np.sqrt(cube["variance"].values), np.ldexp(error.astype(float), exponent), rtol=1e-6
    )


def test_variances_that_are_called_errors(tmp_path: Path) -> None:
    data = (numbers() * 1e-16).astype(np.float32)
    variance = np.abs(numbers()) * np.float32(1e-33)
    for name, error, is_variance in (("a", variance, True), ("b", np.sqrt(variance), False)):
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, cards(), name="SCI"), fits.ImageHDU(error, name="ERR")]
        fits.HDUList(hdus).writeto(tmp_path / name)
        messages: list[str] = []
        cube = open_cube(str(tmp_path / name), message=messages.append)
        found = np.ldexp(cube["variance"].values.astype(float), -2 * cube.attrs["scale_exponent"])
        np.testing.assert_allclose(found, variance, rtol=1e-6)
        (message,) = messages
        assert ("read as such" if is_variance else "squared when read") in message


def test_scaling_does_not_depend_on_the_slice(tmp_path: Path) -> None:
    data = numbers() * np.float32(1e-20) * (10.0 ** np.arange(7, dtype=np.float32))[:, None, None]
    path = write(tmp_path / "cube.fits", data)
    assert len({open_cube(f"{path}[{i}]").attrs["scale_exponent"] for i in range(7)}) == 1


def test_inverse_variance_keeps_its_range() -> None:
    weights = np.array([1e-30, 1e38, 0, -1, np.nan, np.inf], np.float32)
    result = to_float32(weights, Encoding(">f4"), "weight", 0)
    np.testing.assert_allclose(result, [1e30, 1e-38, np.nan, np.nan, np.nan, 0], rtol=1e-6)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_files(tmp_path: Path, compress: object) -> None:
    plain = muse(tmp_path / "cube.fits")
    packed = tmp_path / "cube.fits.gz"
    packed.write_bytes(compress(plain.read_bytes()))  # type: ignore[operator]
    messages: list[str] = []
    for _ in range(2):
        cube = open_cube(f"{packed}{{DATA}}[2:]", scratch=tmp_path / "scratch", message=messages.append)
        np.testing.assert_array_equal(cube["data"].values, numbers()[2:])
    assert len(messages) == 1
    assert "decompressing it once" in messages[0]
    packed.write_bytes(packed.read_bytes()[:-400])
    with pytest.raises(CubeError, match=r"cube.fits.gz cannot be decompressed"):
        open_cube(str(packed), scratch=tmp_path / "scratch")
    (kept,) = (tmp_path / "scratch").glob("*.fits")
    assert {*(tmp_path / "scratch").iterdir()} == {kept, kept.with_name(f"{kept.name}.json")}


def test_a_compressed_file_that_was_replaced_is_decompressed_again(tmp_path: Path) -> None:
    """Also where the new one has the same name and size."""
    packed = tmp_path / "cube.fits.gz"
    for number in range(2):
        plain = muse(tmp_path / f"{number}.fits", numbers() + number)
        packed.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=0))
        os.utime(packed, (1000 + number,) * 2)
        cube = open_cube(f"{packed}{{DATA}}", scratch=tmp_path / "scratch")
        np.testing.assert_array_equal(cube["data"].values, numbers() + number)


@pytest.mark.parametrize("change", ["a bit", "the end", "another file", "no sum"])
def test_a_decompressed_file_that_was_changed_is_not_used(tmp_path: Path, change: str) -> None:
    """Also if its size and its time are what they were."""
    packed = tmp_path / "cube.fits.gz"
    packed.write_bytes(gzip.compress(muse(tmp_path / "cube.fits").read_bytes()))
    open_cube(f"{packed}{{DATA}}", scratch=tmp_path / "scratch")
    (kept,) = (tmp_path / "scratch").glob("*.fits")
    times, content = kept.stat(), bytearray(kept.read_bytes())
    if change == "a bit":
        content[len(content) // 2] ^= 1
    elif change == "the end":
        del content[-2880:]
    elif change == "another file":
        content = bytearray(muse(tmp_path / "other.fits", numbers() + 1).read_bytes())
    else:
        kept.with_name(f"{kept.name}.json").unlink()
        content[-1] ^= 1
    kept.write_bytes(content)
    os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
    messages: list[str] = []
    cube = open_cube(f"{packed}{{DATA}}", scratch=tmp_path / "scratch", message=messages.append)
    np.testing.assert_array_equal(cube["data"].values, numbers())
    assert "decompressing it once" in messages[0]


@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_tile_compressed_images(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_files, "SLAB", 400)
    data = (100 * numbers()).astype(kind)
    method = "GZIP_1" if kind == "f4" else "RICE_1"
    image = fits.CompImageHDU(data, cards(), name="SCI", compression_type=method, quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "cube.fits.fz")
    cube = open_cube(str(tmp_path / "cube.fits.fz"), scratch=tmp_path / "scratch")
    np.testing.assert_array_equal(cube["data"].values, data.astype(np.float32))
    assert cube.attrs["bitpix"] == (-32 if kind == "f4" else 16)


def test_tile_compressed_blank(tmp_path: Path) -> None:
    stored = np.arange(12, dtype=np.int16).reshape(3, 4)
    header = fits.Header({"BLANK": 5})
    image = fits.CompImageHDU(stored, header, name="SCI", compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "i.fits")
    values = open_cube(str(tmp_path / "i.fits"), scratch=tmp_path / "scratch")["data"].values[0]
    assert np.isnan(values[1, 1])
    assert np.isfinite(values).sum() == 11


def test_a_range_of_wavelengths(tmp_path: Path) -> None:
    path = write(tmp_path / "cube.fits")
    for wave in ("475.125:475.5nm", "4751.25:4755A"):
        cube = open_cube(parse_specifier(str(path)).with_options(wave=wave))
        assert cube["channel"].values.tolist() == [1, 2, 3, 4] or wave.endswith("nm")
        assert cube["wavelength"].values.min() >= 4751.25e-10 * (1 - 1e-12)
        np.testing.assert_array_equal(cube["data"].values, numbers()[cube["channel"].values])
        np.testing.assert_array_equal(open_cube(cube.attrs["source"])["data"].values, cube["data"].values)
    with pytest.raises(CubeError, match=r"the channels reach from 0\.475 to 0\.47575 um"):
        open_cube(parse_specifier(str(path)).with_options(wave="1:2um"))
    with pytest.raises(ConfigError, match="not a unit"):
        open_cube(parse_specifier(str(path)).with_options(wave="1:2parsec"))


def test_a_wavelength_range_on_a_frequency_axis(tmp_path: Path) -> None:
    header = cards(CTYPE3="FREQ", CUNIT3="GHz", CRVAL3=100.0, CDELT3=50.0)
    path = write(tmp_path / "cube.fits", None, header)
    cube = open_cube(parse_specifier(str(path)).with_options(wave="1.4:2.1mm"))
    np.testing.assert_allclose(cube["wavelength"].values, [150e9, 200e9])


def test_the_values_of_the_user_replace_those_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "cube.fits", None, cards(CTYPE3="LAMBDA", CUNIT3="furlong"))
    with pytest.raises(CubeError, match="CUNIT3 = 'furlong'"):
        open_cube(str(path))
    cube = open_cube(str(path), wave_start=2.0, wave_step=0.1, wave_unit="um")
    np.testing.assert_allclose(cube["wavelength"].values, (2 + 0.1 * np.arange(7)) * 1e-6)
    header = fits.Header.fromstring(cube.attrs["header"], sep="\n")
    assert (header["CTYPE3"], header["CUNIT3"], header["CRVAL3"], header["CDELT3"]) == (
        "WAVE",
        "um",
        2.0,
        0.1,
    )
    assert open_cube(str(path), wave_unit="nm")["wavelength"].values[0] == pytest.approx(4.75e-6)
    with pytest.raises(CubeError, match="is an image"):
        open_cube(
            str(write(tmp_path / "i.fits", numbers((5, 6)), fits.Header())),
            wave_unit="nm",
        )


def test_tabulated_wavelengths(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns(
        [fits.Column("wave", "7D", dim="(1,7)", array=np.geomspace(1, 2, 7).reshape(1, 7, 1))],
        name="WCS-TABLE",
    )
    header = cards(
        CTYPE3="WAVE-TAB", CUNIT3="um", CRVAL3=1.0, CRPIX3=1.0, CDELT3=1.0, PS3_0="WCS-TABLE", PS3_1="wave"
    )
    fits.HDUList([fits.PrimaryHDU(numbers(), header), table]).writeto(tmp_path / "cube.fits")
    cube = open_cube(f"{tmp_path / 'cube.fits'}[2:5]")
    np.testing.assert_allclose(cube["wavelength"].values, np.geomspace(1, 2, 7)[2:5] * 1e-6)
    fits.PrimaryHDU(numbers(), header).writeto(tmp_path / "lost.fits")
    with pytest.raises(CubeError, match="table 'WCS-TABLE', which cannot be read"):
        open_cube(str(tmp_path / "lost.fits"))


def test_the_psf_of_a_product_without_wavelengths_can_be_read(tmp_path: Path) -> None:
    header = fits.Header({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"})
    fits.PrimaryHDU(numbers(), header).writeto(tmp_path / "psf.fits")
    cube = open_cube(str(tmp_path / "psf.fits"))
    assert cube["data"].dims == ("wavelength", "y", "x")
    np.testing.assert_array_equal(cube["data"].values, numbers())


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cube.fits")
    for reads in (open_cube, read_provenance):
        with pytest.raises(CubeError, match="cube.fits is a pipe"):
            reads(str(tmp_path / "cube.fits"))


def test_missing_files_and_extensions_are_named(tmp_path: Path) -> None:
    path = muse(tmp_path / "cube.fits")
    for text, message in {
        f"{tmp_path}/cube.fit": "did you mean .*cube.fits",
        f"{tmp_path}/no/cube.fits": "no folder",
        f"{tmp_path}": "is a folder and no FITS file",
        f"{path}{{DATTA}}": r"it has PRIMARY \(no array\), DATA \(7 x 5 x 6\).*did you mean .*\{DATA\}",
        f"{path}{{9}}": "no extension 9",
        f"{path}{{0}}": r"is no image.*\{DATA\}",
        f"{path}[0:1,0:1,0:1,0:1]": "4 slices, but the array has 3 axes",
        f"{path}[9:]": "leaves nothing of axis 0",
        f"{path}[9]": "leaves nothing of axis 0",
        f"{path}(1,5)": "no axis 5",
        f"{path}{{CELESTIAL:(1,2),SPECTRAL:(-1)}}": "named twice",
    }.items():
        with pytest.raises(CubeError, match=message) as error:
            open_cube(text)
        assert "\n" not in str(error.value)


def test_a_file_without_ctypes_lists_its_axes(tmp_path: Path) -> None:
    path = write(tmp_path / "cube.fits", None, fits.Header())
    with pytest.raises(CubeError, match=r"axis 0 \(no CTYPE, 7 long\).*CELESTIAL:\(1,2\),SPECTRAL:\(0\)"):
        open_cube(str(path))
    for axes in ("(1,2)", "(0)", "(-2,-1)", "{CELESTIAL:(1,2),SPECTRAL:(0)}"):
        cube = open_cube(f"{path}{axes}")
        np.testing.assert_array_equal(cube["data"].values, numbers())
        assert cube["wavelength"].attrs["units"] == ""


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = muse(tmp_path / "cube.fits")
    whole = path.read_bytes()
    for missing, message in (
        (2880, "cut short: extension STAT"),
        (3000, "header of extension 2 is cut short"),
    ):
        path.write_bytes(whole[:-missing])
        with pytest.raises(CubeError, match=message):
            open_cube(str(path))
    for content in (b"", b"SI", b"hello" * 1000):
        path.write_bytes(content)
        with pytest.raises(CubeError, match="not a FITS file"):
            open_cube(str(path))


def test_a_file_changed_after_opening_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "cube.fits")
    cube = open_cube(str(path))
    path.unlink()
    with pytest.raises(CubeError, match="cannot be read"):
        cube["data"].values  # noqa: B018
    write(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CubeError, match="was changed"):
        cube["data"].values  # noqa: B018


def test_an_image_is_a_cube_of_one_plane(tmp_path: Path) -> None:
    path = write(tmp_path / "image.fits", numbers((5, 6)), fits.Header())
    cube = open_cube(str(path))
    assert cube["data"].shape == (1, 5, 6)
    assert np.isnan(cube["wavelength"].values).all()
    assert fits.Header.fromstring(cube.attrs["header"], sep="\n")["NAXIS"] == 2


def test_identity_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert file_identity(path) == (3_000_000, hashlib.sha256(b"x" * 3_000_000).hexdigest())
    with pytest.raises(CubeError, match="cannot be read"):
        file_identity(tmp_path / "none")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.none() | st.floats(0, 1),
    st.sampled_from(["muse", "gzip", "table"]),
)
def test_damaged_files_give_a_cube_or_a_one_line_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]], cut: float | None, which: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    whole = folder / f"{which}.fits"
    if not whole.exists():
        muse(whole)
        if which == "table":
            fits.append(whole, np.array(Table({"a": [1.0]})))
        if which == "gzip":
            whole.write_bytes(gzip.compress(whole.read_bytes(), mtime=0))
    raw = bytearray(whole.read_bytes())
    for place, value in flips:
        raw[int(place * (len(raw) if which == "gzip" else 8640))] = value
    damaged = folder / "damaged.fits"
    damaged.write_bytes(raw if cut is None else raw[: int(cut * len(raw))])
    try:
        problem = ""
        open_cube(str(damaged), scratch=folder / "scratch")["data"].compute()
    except UserError as error:
        problem = str(error)
    assert "\n" not in problem


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data")
def test_every_real_file_opens_or_gives_an_error(tmp_path: Path) -> None:
    refused: dict[str, str] = {}
    for path in sorted((SHARED / "data").iterdir()):
        try:
            cube = open_cube(str(path), scratch=tmp_path)
        except CubeError as error:
            refused[path.name] = str(error)
            continue
        data = cube["data"].values
        assert data.dtype == np.float32
        assert not np.isinf(data).any()
        ext = cube.attrs["header"]
        assert "CTYPE" in ext or cube["wavelength"].attrs["units"] == ""
    assert not any("\n" in message or len(message) > 1000 for message in refused.values())
    assert {name for name in refused if name.endswith(".fits")} == {
        "axes_ra_pol_freq_dec.fits",  # five polarisations
        "naco_betapic_adi_cube.fits",  # no WCS at all
        "scarlet_PSF_HSC.fits",
    }


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data")
def test_real_files_are_read_correctly(tmp_path: Path) -> None:
    def load(name: str) -> object:
        return open_cube(f"{SHARED / 'data'}/{name}", scratch=tmp_path)

    muse_cube = load("muse_udf_subcube.fits")
    assert muse_cube["wavelength"].values[[0, -1]] == pytest.approx([4750e-10, 5373.75e-10])
    with fits.open(SHARED / "data/muse_udf_subcube.fits") as file:
        np.testing.assert_array_equal(muse_cube["data"].values, file["DATA"].data)
        np.testing.assert_array_equal(muse_cube["variance"].values, file["STAT"].data)
    manga = load("hdr_manga_logcube.fits")
    np.testing.assert_allclose(np.diff(np.log10(manga["wavelength"].values)), 1e-4, rtol=1e-6)
    gmos = load("gmos_ngc3081_cube.fits")
    assert gmos["wavelength"].values[0] == pytest.approx(562.789e-9)
    assert gmos.attrs["scale_exponent"] > 40
    assert load("sphere_irdis_europa_2band.fits")["wavelength"].values == pytest.approx([2.11e-6, 2.251e-6])
    four = load("axes_ra_pol_freq_dec.fits[:,:,0,:]")
    with fits.open(SHARED / "data/axes_ra_pol_freq_dec.fits") as file:
        np.testing.assert_array_equal(four["data"].values, file[0].data[:, :, 0, :].transpose(1, 0, 2))
    assert load("naco_betapic_adi_cube.fits(1,2)")["data"].shape == (61, 101, 101)
    with fits.open(SHARED / "data/int16_bscale_blank.fits") as file:
        np.testing.assert_allclose(load("int16_bscale_blank.fits")["data"].values[0], file[0].data, atol=1e-4)
    with fits.open(SHARED / "data/tilecompressed_10x10.fits") as file:
        np.testing.assert_array_equal(load("tilecompressed_10x10.fits")["data"].values[0], file[1].data)


def test_a_path_is_taken_literally_and_a_range_of_wavelengths_is_read(tmp_path: Path) -> None:
    header = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "nm", "CRVAL3": 500.0, "CRPIX3": 1.0, "CDELT3": 1.0})
    path = tmp_path / "odd[1:2]"
    fits.PrimaryHDU(np.zeros((6, 3, 4), np.float32), header).writeto(path)
    assert open_cube(path).sizes["wavelength"] == 6
    assert open_cube(path, wave="501:503nm")["channel"].values.tolist() == [1, 2, 3]
