"""Write scenes as MUSE-like FITS files, plane by plane, and make scenes of a given size."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from dask.utils import parse_bytes
from numpy.typing import NDArray

from lucidcube.errors import ConfigError
from lucidcube.io.atomic import atomic_file
from lucidcube.io.header_cards import MALFORMED
from lucidcube.simulate.artefacts import ArtefactKind
from lucidcube.simulate.scene import SKY_CENTRE, Scene

_BLOCK = 2880
_FLUX = "10**(-20)*erg/s/cm**2/Angstrom"
_FULL_FIELD = 341
_BLUE, _RED, _STEP = 475.0e-9, 935.0e-9, 0.125e-9


class ScenePaths(NamedTuple):
    """Files of a scene; `truth` is None if it was not requested."""

    target: Path
    star: Path
    truth: Path | None


_Write = Callable[[int, Sequence[NDArray[np.generic]]], None]


class _Layer(NamedTuple):
    """One image extension: its name, type, shape of a plane, and cards."""

    name: str
    dtype: str
    field: tuple[int, int]
    header: fits.Header


def write_scene(scene: Scene, directory: str | Path, *, truth: bool = False) -> ScenePaths:
    """Write ``target.fits`` and ``star.fits`` into a folder, with one plane in memory at a time.

    Each file has an empty primary HDU, ``DATA`` and ``STAT`` (variance), big-endian float32, as MUSE has.

    The folder is created if it does not exist. Existing files are replaced once the new ones are complete.
    With `truth`, ``truth.fits`` is written too: ``TRUTH``, ``BLURRED``, ``PSF``, ``ARTEFACTS`` (uint8, codes
    of `ArtefactKind`) and ``ARTEFACT_FLUX``.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = ScenePaths(folder / "target.fits", folder / "star.fits", folder / "truth.fits" if truth else None)
    layers = _observation(scene, scene.star_field)
    with _cube_file(paths.star, scene, "simulated standard star", layers) as write:
        for index in range(scene.shape[0]):
            star = scene.star_plane(index)
            write(index, (star.observed, star.variance))
    layers = _observation(scene, scene.target_field)
    with ExitStack() as stack:
        write = stack.enter_context(_cube_file(paths.target, scene, "simulated ice giant", layers))
        if paths.truth is not None:
            title = "simulated ice giant, truth"
            write_truth = stack.enter_context(_cube_file(paths.truth, scene, title, _truth(scene)))
        for index in range(scene.shape[0]):
            plane = scene.plane(index)
            write(index, (plane.observed, plane.variance))
            if truth:
                images = (plane.truth, plane.blurred, plane.psf, plane.artefact_kind, plane.artefact_flux)
                write_truth(index, images)
    return paths


def is_simulated(path: Path) -> bool:
    """Return whether a file was written by `write_scene`."""
    try:
        return path.is_file() and fits.getval(path, "ORIGIN") == "lucidcube"
    except MALFORMED:
        return False


def parse_size(text: str) -> int:
    """Return the number of bytes for a text such as ``8GB`` (10**9) or ``500MiB`` (2**20).

    A text that is not a size, or is less than one byte, raises ConfigError.
    """
    try:
        size = parse_bytes(text) if any(c.isdigit() for c in text) else 0
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(f"invalid size {text!r}: type a number and a unit, as in 8GB or 500MiB")
    return int(size)


def scene_for_size(nbytes: int, *, seed: int = 0) -> Scene:
    """Return a scene like those of MUSE's narrow-field mode, whose target file has about `nbytes` bytes.

    From 60 MB on, planes have 341 x 341 pixels. Channels are 0.125 nm apart and centred on 705 nm, or closer
    together if they would extend beyond 475 to 935 nm (from 3.4 GB, the size of a real cube). Smaller scenes
    have at least 32 planes, or else planes of 21 x 21 pixels. The field of the star has at most 151 x 151
    pixels, so that its file has a fifth of the size. Less than the smallest scene of 8 planes needs (28 kB)
    raises ConfigError.
    """
    voxels = nbytes // 8
    if voxels < 8 * 21**2:
        raise ConfigError(f"a scene of {nbytes} bytes is too small: give a size of at least 28kB")
    side = _FULL_FIELD
    if voxels < 64 * side**2:
        side = min(_FULL_FIELD, max(21, (int(np.sqrt(voxels / 32)) - 1) // 2 * 2 + 1))
    count = voxels // side**2
    step = min(_STEP, (_RED - _BLUE) / max(1, count - 1))
    first = (_BLUE + _RED) / 2 - step * (count - 1) / 2
    star = min(side, 151)
    return Scene((count, side, side), first, step, seed, star_shape=(star, star))


@contextmanager
def _cube_file(path: Path, scene: Scene, title: str, layers: Sequence[_Layer]) -> Iterator[_Write]:
    """Yield a function that writes one image into each extension of a file as its plane `index`.

    The file appears under its name when all planes have been written.
    """
    with atomic_file(path) as file:
        offsets = []
        file.write(_primary(scene, title).tostring().encode())
        for layer in layers:
            planes = np.broadcast_to(np.zeros((), layer.dtype), (scene.shape[0], *layer.field))
            header = fits.ImageHDU(planes, header=layer.header, name=layer.name).header
            file.write(header.tostring().encode())
            offsets.append(file.tell())
            file.seek(-(-planes.nbytes // _BLOCK) * _BLOCK, os.SEEK_CUR)
        file.truncate()

        def write(index: int, images: Sequence[NDArray[np.generic]]) -> None:
            for image, offset, layer in zip(images, offsets, layers, strict=True):
                plane = np.ascontiguousarray(image, dtype=layer.dtype)
                file.seek(offset + index * plane.nbytes)
                file.write(plane.data.cast("B"))

        yield write


def _primary(scene: Scene, title: str) -> fits.Header:
    header = fits.PrimaryHDU().header
    header["ORIGIN"] = ("lucidcube", "simulated, not observed")
    header["TELESCOP"] = ("ESO-VLT-U4", "imitated")
    header["INSTRUME"] = ("MUSE", "imitated")
    header["OBJECT"] = title
    header["RA"], header["DEC"] = SKY_CENTRE
    header["HIERARCH ESO INS MODE"] = "NFM-AO-N"
    header["HIERARCH LUCIDCUBE SEED"] = scene.seed
    return header


def _observation(scene: Scene, field: tuple[int, int]) -> list[_Layer]:
    shared = {"HDUCLASS": "ESO", "HDUDOC": "DICD", "HDUVERS": "DICD version 6", "HDUCLAS1": "IMAGE"}
    data = _grid(scene, field, _FLUX, shared | {"HDUCLAS2": "DATA", "ERRDATA": "STAT"})
    error = {"HDUCLAS2": "ERROR", "HDUCLAS3": "MSE", "SCIDATA": "DATA"}
    stat = _grid(scene, field, f"({_FLUX})**2", shared | error)
    return [_Layer("DATA", ">f4", field, data), _Layer("STAT", ">f4", field, stat)]


def _truth(scene: Scene) -> list[_Layer]:
    field, stamp = scene.target_field, (scene.stamp, scene.stamp)
    flux = _grid(scene, field, _FLUX)
    kind = _grid(scene, field, "", {f"KIND{code.value}": code.name for code in ArtefactKind})
    return [
        _Layer("TRUTH", ">f4", field, flux),
        _Layer("BLURRED", ">f4", field, flux),
        _Layer("PSF", ">f4", stamp, _grid(scene, stamp, "")),
        _Layer("ARTEFACTS", "u1", field, kind),
        _Layer("ARTEFACT_FLUX", ">f4", field, flux),
    ]


def _grid(
    scene: Scene, field: tuple[int, int], unit: str, cards: Mapping[str, str] | None = None
) -> fits.Header:
    """Return a header with `cards`, the unit and world coordinates, in Angstrom, of a field."""
    header = fits.Header(cards or {})
    if unit:
        header["BUNIT"] = unit
    header["CTYPE1"], header["CTYPE2"], header["CTYPE3"] = "RA---TAN", "DEC--TAN", "AWAV"
    header["CUNIT1"], header["CUNIT2"], header["CUNIT3"] = "deg", "deg", "Angstrom"
    header["CRPIX1"], header["CRPIX2"], header["CRPIX3"] = (field[1] + 1) / 2, (field[0] + 1) / 2, 1.0
    header["CRVAL1"], header["CRVAL2"] = SKY_CENTRE
    header["CRVAL3"] = round(scene.first_wavelength * 1e10, 6)
    (header["CD1_1"], header["CD1_2"]), (header["CD2_1"], header["CD2_2"]) = scene.sky_matrix.tolist()
    header["CD1_3"], header["CD2_3"], header["CD3_1"], header["CD3_2"] = 0.0, 0.0, 0.0, 0.0
    header["CD3_3"] = round(scene.wavelength_step * 1e10, 9)
    header["RADESYS"], header["EQUINOX"] = "FK5", 2000.0
    return header
