"""Writing FITS files plane by plane: the same bytes as astropy, no incomplete products."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from locations import SHARED
from lucidcube.errors import CubeError
from lucidcube.io.hdu_bytes import ImagePlan, checksum, encode, fold, serialised, stored_dtype
from lucidcube.io.header_cards import shape_of
from lucidcube.io.reader import open_cube
from lucidcube.io.writer import abandon, finish, reserve, write_planes


def numbers(dtype: str, shape: tuple[int, ...] = (7, 5, 3)) -> NDArray[np.generic]:
    return (100 * np.random.default_rng(3).normal(size=shape)).astype(dtype)


def odd_header() -> fits.Header:
    """Return a header with cards of every kind, whose order must be kept."""
    header = fits.Header()
    header["OBJECT"] = ("Neptune", "what it is")
    header["HIERARCH ESO DET WIN1 UIT1"] = (1.5, "s")
    header["COMMENT"] = "first comment"
    header["CTYPE3"] = "AWAV"
    header.append(("", ""), end=True)
    header["LONGTEXT"] = "x" * 150 + " and a quote '' here"
    header["HISTORY"] = "one"
    header["UNDEF"] = None
    header["HISTORY"] = "two"
    header["FLAG"] = True
    header.append(fits.Card.fromstring("EXPTIME =           1.50000E+02 / kept as it was typed"), end=True)
    header.append(("", "a blank card with text"), end=True)
    header["CRVAL3"] = (4750.0, "[Angstrom]")
    return header


def other_cards(header: fits.Header) -> list[str]:
    """Return all cards except for the structural ones."""
    structural = [
        "SIMPLE",
        "XTENSION",
        "BITPIX",
        "EXTEND",
        "PCOUNT",
        "GCOUNT",
        "EXTNAME",
        "CHECKSUM",
        "DATASUM",
        "BSCALE",
        "BZERO",
        "BLANK",
    ]
    return [str(c) for c in header.cards if c.keyword not in structural and not c.keyword.startswith("NAXIS")]


def table() -> fits.BinTableHDU:
    columns = [
        fits.Column("wavelength", "D", array=np.arange(4.0)),
        fits.Column("stop_reason", "12A", array=np.array(["rms", "n_iter", "", "all NaN"])),
        fits.Column("list", "PJ()", array=np.array([np.arange(i) for i in range(4)], dtype=object)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="LOG")


def plain_header() -> fits.Header:
    """Return the same header without blank cards, which astropy fills."""
    return fits.Header([card for card in odd_header().cards if card.keyword])


def by_astropy(path: Path, data: NDArray[np.generic], mask: NDArray[np.generic]) -> tuple[bytes, str]:
    """Return the file that astropy writes, and the date in its checksum comments."""
    primary = fits.PrimaryHDU(data, plain_header())
    primary.header["EXTNAME"] = ("DECONVOLVED", "extension name")
    hdus = fits.HDUList([primary, fits.ImageHDU(mask, name="MASK"), table()])
    for _ in range(5):
        hdus.writeto(path, checksum=True, overwrite=True)
        comments = [fits.getheader(path, i).comments["CHECKSUM"] for i in range(3)]
        if len(set(comments)) == 1:  # both were written within the same second
            break
    return path.read_bytes(), comments[0].removeprefix("HDU checksum updated ")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "int32", "int64"])
def test_the_same_bytes_as_astropy_in_any_order_from_many_threads(tmp_path: Path, dtype: str) -> None:
    data, mask = numbers(dtype), (numbers("float32", (9, 5, 3)) > 0).astype("uint8")
    expected, when = by_astropy(tmp_path / "astropy.fits", data, mask)
    plans = [
        ImagePlan("DECONVOLVED", plain_header(), data.shape, dtype),
        ImagePlan("MASK", fits.Header(), mask.shape, "uint8"),
        table(),
    ]
    layout = reserve(tmp_path / "ours.fits", plans, when=when)
    assert len(pickle.dumps(layout)) < 2000
    jobs = [(0, first, data[first : first + 2]) for first in range(0, 7, 2)]
    jobs += [(1, first, mask[first]) for first in range(9)]
    np.random.default_rng(0).shuffle(order := list(range(len(jobs))))
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda i: (jobs[i][0], write_planes(layout, *jobs[i])), order))
    assert not (tmp_path / "ours.fits").exists()
    product = finish(layout, {hdu: sum(s for h, s in sums if h == hdu) for hdu in (0, 1)})
    assert product.read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["astropy.fits", "ours.fits"]


def test_astropy_verifies_the_file(tmp_path: Path) -> None:
    header = odd_header()
    header.update(BSCALE=2.0, BZERO=32768.0, BLANK=-1)
    plans = [
        ImagePlan("DECONVOLVED", header, (2, 1, 4, 3), "float32"),
        ImagePlan("MASK", header, (5, 4), "uint8"),
        table(),
    ]
    layout = reserve(tmp_path / "p.fits", plans)
    sums = {
        0: write_planes(layout, 0, 0, numbers("float64", (2, 4, 3))),
        1: write_planes(layout, 1, 0, np.ones((5, 4))),
    }
    with fits.open(finish(layout, sums), checksum=True) as file:
        file.verify("exception")
        assert [hdu.name for hdu in file] == ["DECONVOLVED", "MASK", "LOG"]
        assert file[0].data.shape == (2, 1, 4, 3)
        np.testing.assert_array_equal(file[0].data[:, 0], numbers("float64", (2, 4, 3)).astype("float32"))
        assert file[1].data.sum() == 20
        assert file["LOG"].data["stop_reason"].tolist() == ["rms", "n_iter", "", "all NaN"]
        assert all(hdu.verify_checksum() == hdu.verify_datasum() == 1 for hdu in file)


def test_missing_checksums_are_computed_from_the_file(tmp_path: Path) -> None:
    files = []
    for i, known in enumerate((True, False)):
        layout = reserve(tmp_path / f"{i}.fits", [ImagePlan("A", fits.Header(), (7, 5, 3), "int16")])
        total = write_planes(layout, 0, 0, numbers("int16"))
        files.append(finish(layout, {0: total} if known else {}).read_bytes())
    assert files[0] == files[1]


def test_headers_are_kept_card_for_card(tmp_path: Path) -> None:
    header = odd_header()
    layout = reserve(
        tmp_path / "p.fits",
        [ImagePlan("A", header, (7, 5, 3), "float32"), ImagePlan("B", header, (), "uint8")],
    )
    with fits.open(finish(layout, {})) as file:
        for hdu in file[:2]:
            written = [str(card) for card in hdu.header.cards]
            first = written.index(str(header.cards[0]))
            assert written[first : first + len(header)] == [str(card) for card in header.cards]
            assert hdu.name == ("A" if hdu is file[0] else "B")


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data")
def test_real_headers_are_kept_card_for_card(tmp_path: Path) -> None:
    for path in sorted((SHARED / "data").glob("*.fits")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path) as file:
                header = file[-1].header if path.name.startswith("hdr_manga") else file[0].header
                expected = other_cards(header)
                layout = reserve(tmp_path / path.name, [ImagePlan("A", header, (2, 3), "float32")])
            with fits.open(finish(layout, {}), checksum=True) as file:
                written = other_cards(file[0].header)
        assert written == expected, path.name


def test_scaling_by_a_power_of_two_is_undone_exactly(tmp_path: Path) -> None:
    data = numbers("float32") * np.float32(1e-30)
    layout = reserve(
        tmp_path / "p.fits", [ImagePlan("A", fits.Header(), data.shape, "float32", scale_exponent=90)]
    )
    write_planes(layout, 0, 0, np.ldexp(data, 90))
    np.testing.assert_array_equal(fits.getdata(finish(layout, {})), data)
    layout = reserve(
        tmp_path / "q.fits", [ImagePlan("A", fits.Header(), data.shape, "float64", scale_exponent=500)]
    )
    write_planes(layout, 0, 0, data)
    np.testing.assert_array_equal(fits.getdata(finish(layout, {})), np.ldexp(data.astype(float), -500))


def copied(source: Path, target: Path) -> Path:
    """Write the cube that was read from a FITS file to another file, block by block in reverse order."""
    cube = open_cube(str(source), block=3)
    header = fits.Header.fromstring(cube.attrs["header"], sep="\n")
    exponent, dtype = cube.attrs["scale_exponent"], stored_dtype(cube.attrs["bitpix"])
    powers = {"data": 1, "variance": 2}
    plans = [
        ImagePlan(str(n), header, shape_of(header), dtype, powers[str(n)] * exponent) for n in cube.data_vars
    ]
    layout = reserve(target, plans)
    sums = dict.fromkeys(range(len(plans)), 0)
    for first in reversed(range(0, cube.sizes["wavelength"], 3)):
        for hdu, variable in enumerate(cube.data_vars):
            sums[hdu] += write_planes(layout, hdu, first, cube[variable][first : first + 3].values)
    return finish(layout, sums)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    "name",
    [
        "muse_udf_galpak_subcube",
        pytest.param("gmos_ngc3081_cube", marks=pytest.mark.slow),
        "stokes4d_example_cube",
        "sphere_irdis_europa_2band",
    ],
)
def test_real_cubes_round_trip(tmp_path: Path, name: str) -> None:
    source = SHARED / f"data/{name}.fits"
    product = copied(source, tmp_path / "product.fits")
    with fits.open(source) as before, fits.open(product, checksum=True) as after:
        data = next(hdu for hdu in before if hdu.data is not None)
        np.testing.assert_array_equal(after[0].data, data.data)
        assert after[0].header["BITPIX"] == data.header["BITPIX"]
        assert other_cards(after[0].header) == other_cards(data.header)
        if name == "gmos_ngc3081_cube":
            np.testing.assert_array_equal(after["variance"].data, before["ERR"].data)  # variances, by size
        elif len(after) > 1:
            np.testing.assert_allclose(after["variance"].data, before["STAT"].data, rtol=1e-7)
    one, two = open_cube(str(source)), open_cube(str(product))
    np.testing.assert_array_equal(one["data"], two["data"])
    np.testing.assert_array_equal(one["wavelength"], two["wavelength"])


def test_products_are_not_overwritten_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "p.fits"
    plans = [ImagePlan("A", fits.Header(), (1, 2, 2), "float32")]
    layout = reserve(path, plans)
    path.write_text("somebody else's")
    with pytest.raises(CubeError, match="exists already"):
        finish(layout, {})
    with pytest.raises(CubeError, match="exists already"):
        reserve(path, plans)
    assert [p.name for p in tmp_path.iterdir()] == ["p.fits"]
    assert path.read_text() == "somebody else's"
    finish(reserve(path, plans, overwrite=True), {})
    assert fits.getdata(path).shape == (1, 2, 2)
    with pytest.raises(CubeError, match="is a folder"):
        reserve(tmp_path, plans)


def test_the_same_planes_give_the_same_file(tmp_path: Path) -> None:
    contents = set()
    for name in "ab":
        layout = reserve(tmp_path / name, [ImagePlan("A", odd_header(), (7, 5, 3), "float32"), table()])
        contents.add(finish(layout, {0: write_planes(layout, 0, 0, numbers("float32"))}).read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync", "replace"])
def test_a_full_disk_leaves_no_file(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [ImagePlan("A", fits.Header(), (7, 5, 3), "float32")]

    def full(*arguments: object, **more: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CubeError, match=r"p.fits cannot be written.*No space left on device") as error:
        finish(reserve(tmp_path / "p.fits", plans), {})
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_becomes_full_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = reserve(tmp_path / "p.fits", [ImagePlan("A", fits.Header(), (7, 5, 3), "float32")])
    real, left = os.pwrite, [200]

    def filling(descriptor: int, data: memoryview, offset: int) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(descriptor, data[: left[0]], offset)
        left[0] -= count
        return count

    monkeypatch.setattr(os, "pwrite", filling)
    with pytest.raises(CubeError, match="No space left"):
        write_planes(layout, 0, 0, numbers("float32"))
    abandon(layout)
    abandon(layout)
    assert not list(tmp_path.iterdir())


def test_file_systems_without_preallocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    layout = reserve(tmp_path / "p.fits", [ImagePlan("A", fits.Header(), (7, 5, 3), "int16")])
    write_planes(layout, 0, 2, numbers("int16")[2:4])
    np.testing.assert_array_equal(fits.getdata(finish(layout, {}))[2:4], numbers("int16")[2:4])


def test_planes_of_a_wrong_shape_are_errors(tmp_path: Path) -> None:
    layout = reserve(tmp_path / "p.fits", [ImagePlan("A", fits.Header(), (7, 5, 3), "int16"), table()])
    for hdu, first, shape in (
        (0, 6, (2, 5, 3)),
        (0, -1, (1, 5, 3)),
        (0, 0, (1, 3, 5)),
        (0, 0, (15,)),
        (1, 0, (1, 5, 3)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            write_planes(layout, hdu, first, np.zeros(shape, np.int16))
    abandon(layout)
    for bad in (
        [table()],
        [],
        [ImagePlan("A", fits.Header(), (7, 5), "uint16")],
        [ImagePlan("A", fits.Header(), (7,), "uint8")],
    ):
        with pytest.raises(ValueError, match=r"must be an ImagePlan|cannot store"):
            reserve(tmp_path / "p.fits", bad)
    assert not list(tmp_path.iterdir())


def test_stored_types() -> None:
    assert [stored_dtype(bitpix) for bitpix in (8, 16, 32, 64, -32, -64)] == ["float32"] * 5 + ["float64"]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_checksums_of_parts_add_up(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    parts = [checksum(data[a:b], a) for a, b in pairwise(edges)]
    padded = data.ljust(-(-len(data) // 4) * 4, b"\0")
    plain = sum(int.from_bytes(padded[i : i + 4], "big") for i in range(0, len(padded), 4))
    assert fold(sum(parts)) == checksum(data) == fold(plain)


@given(st.integers(0, 2**32 - 1))
def test_encoded_checksums_sum_to_minus_zero(total: int) -> None:
    text = encode(total)
    assert text.isascii()
    assert text.isalnum()
    turned = text[1:] + text[0]  # the value in the card begins one byte after a word
    assert fold(checksum(turned.encode()) - checksum(b"0" * 16) + 2 * 0xFFFFFFFF + total) in (0, 0xFFFFFFFF)


@pytest.mark.parametrize(("number", "said"), [(errno.EIO, "is complete, but its folder"), (errno.EINVAL, "")])
def test_a_folder_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    flush = os.fsync

    def fails_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fails_for_folders)
    layout = reserve(tmp_path / "cube.fits", [ImagePlan("", fits.Header(), (1, 2, 2), "float32")])
    total = write_planes(layout, 0, 0, np.ones((1, 2, 2)))
    with pytest.raises(CubeError, match=said) if said else nullcontext():
        finish(layout, {0: total})
    with fits.open(tmp_path / "cube.fits", checksum=True) as hdus:
        np.testing.assert_array_equal(hdus[0].data, 1)
    assert os.listdir(tmp_path) == ["cube.fits"]


@pytest.mark.parametrize("given", [{}, {"EXTNAME": "OTHER"}])
@pytest.mark.parametrize("name", ["", "DATA"])
def test_an_image_has_one_name_or_none(name: str, given: dict[str, str]) -> None:
    plan = ImagePlan(name, fits.Header(given), (2, 3), "float32")
    header = fits.Header.fromstring(serialised(plan, "", primary=False, alone=False)[0])
    assert [card.value for card in header.cards if card.keyword == "EXTNAME"] == [name] * bool(name)


def test_checksums_of_single_bytes_add_up() -> None:
    data = bytes(range(1, 200, 7))
    assert fold(sum(checksum(data[k : k + 1], k) for k in range(len(data)))) == checksum(data)
