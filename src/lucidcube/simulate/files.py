"""A scene as MUSE-like FITS files, written plane by plane; and scenes of a wanted size."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.errors import ConfigError
from lucidcube.simulate.artefacts import ArtefactKind
from lucidcube.simulate.scene import Scene

_BLOCK = 2880
_FLUX = "10**(-20)*erg/s/cm**2/Angstrom"
_VARIANCE = f"({_FLUX})**2"
_FULL_FIELD = 341
_BLUE, _RED, _STEP = 475.0e-9, 935.0e-9, 0.125e-9
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class ScenePaths(NamedTuple):
    """Files of a written scene; `truth` is None if it was not asked for."""

    target: Path
    star: Path
    truth: Path | None


class _Layer(NamedTuple):
    """One image extension: what it is called, what it holds, and its cards."""

    name: str
    dtype: str
    field: tuple[int, int]
    header: fits.Header


def write_scene(scene: Scene, directory: str | Path, *, truth: bool = False) -> ScenePaths:
    """Write ``target.fits`` and ``star.fits`` into `directory`, holding one plane at a time.

    Each has an empty primary HDU, ``DATA`` and ``STAT`` (variance), big-endian float32, like MUSE's.

    Parameters
    ----------
    scene
        What to write.
    directory
        Made if it does not exist. Files of the same names are replaced, each at once when it is whole.
    truth
        Write ``truth.fits`` too: ``TRUTH``, ``BLURRED``, ``PSF``, ``ARTEFACTS`` (uint8, codes of
        `ArtefactKind`) and ``ARTEFACT_FLUX``.

    Returns
    -------
    ScenePaths
        Where the files are.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = ScenePaths(folder / "target.fits", folder / "star.fits", folder / "truth.fits" if truth else None)
    star_layers, target_layers = (
        _observation(scene, field) for field in (scene.star_field, scene.target_field)
    )
    with _cube_file(paths.star, scene, "simulated standard star", star_layers) as star:
        for index in range(scene.shape[0]):
            seen = scene.star_plane(index)
            star.write(index, (seen.observed, seen.variance))
    with ExitStack() as stack:
        target = stack.enter_context(_cube_file(paths.target, scene, "simulated ice giant", target_layers))
        known = None
        if paths.truth is not None:
            title = "simulated ice giant, truth"
            known = stack.enter_context(_cube_file(paths.truth, scene, title, _truth(scene)))
        for index in range(scene.shape[0]):
            plane = scene.plane(index)
            target.write(index, (plane.observed, plane.variance))
            if known is not None:
                images = (plane.truth, plane.blurred, plane.psf, plane.artefact_kind, plane.artefact_flux)
                known.write(index, images)
    return paths


def parse_size(text: str) -> int:
    """Bytes that a text such as ``8GB`` (10**9), ``500MiB`` (2**20) or ``1000000`` stands for.

    Raises
    ------
    ConfigError
        If it is not understood, or not at least one byte.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]?i?)b?\s*", text, flags=re.IGNORECASE)
    unit = (_UNITS | _BINARY_UNITS).get(match.group(2).lower()) if match else None
    size = round(float(match.group(1)) * unit) if match and unit else 0
    if size < 1:
        raise ConfigError(f"size {text!r} is not understood: type a number and a unit, as in 8GB or 500MiB")
    return size


def scene_for_size(nbytes: int, *, seed: int = 0) -> Scene:
    """Scene whose target file (data and variance) holds about `nbytes`, like MUSE's narrow-field mode.

    From 60 MB on, planes are 341 x 341. Channels are 0.125 nm apart about 705 nm; when they would reach
    beyond 475 to 935 nm (3.4 GB, as large as a real cube) they lie closer together instead. Smaller scenes
    have at least 32 planes, or else planes of 21 x 21. The field of the star is at most 151 x 151, which
    keeps its file at a fifth of the size.

    Raises
    ------
    ConfigError
        If `nbytes` is less than the smallest scene of 8 planes needs (28 kB).
    """
    voxels = nbytes // 8
    if voxels < 8 * 21**2:
        raise ConfigError(f"a scene of {nbytes} bytes is too small to be of use: ask for 28kB or more")
    side = _FULL_FIELD
    if voxels < 64 * side**2:
        side = min(_FULL_FIELD, max(21, (int(np.sqrt(voxels / 32)) - 1) // 2 * 2 + 1))
    count = voxels // side**2
    step = min(_STEP, (_RED - _BLUE) / max(1, count - 1))
    first = (_BLUE + _RED) / 2 - step * (count - 1) / 2
    star = min(side, 151)
    return Scene(
        shape=(count, side, side),
        first_wavelength=first,
        wavelength_step=step,
        seed=seed,
        star_shape=(star, star),
    )


class _CubeFile:
    """Image extensions of one open file, written plane by plane at their places."""

    def __init__(self, descriptor: int, offsets: Sequence[int], layers: Sequence[_Layer]) -> None:
        self._descriptor, self._offsets, self._layers = descriptor, offsets, layers

    def write(self, index: int, images: Sequence[NDArray[np.generic]]) -> None:
        """Put one image into each extension as its plane `index`."""
        for image, offset, layer in zip(images, self._offsets, self._layers, strict=True):
            plane = np.ascontiguousarray(image, dtype=layer.dtype)
            view = plane.reshape(-1).view(np.uint8).data
            place = offset + index * plane.nbytes
            while view:
                written = os.pwrite(self._descriptor, view, place)
                view, place = view[written:], place + written


@contextmanager
def _cube_file(path: Path, scene: Scene, title: str, layers: Sequence[_Layer]) -> Iterator[_CubeFile]:
    """Open `path` for planes: headers and size first; it appears under its name when all went well."""
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        position = _put(descriptor, 0, _primary(scene, title))
        offsets = []
        for layer in layers:
            shape = (scene.shape[0], *layer.field)
            hdu = fits.ImageHDU(
                np.broadcast_to(np.zeros((), layer.dtype), shape), header=layer.header, name=layer.name
            )
            position = _put(descriptor, position, hdu.header)
            offsets.append(position)
            nbytes = int(np.prod(shape)) * np.dtype(layer.dtype).itemsize
            position += -(-nbytes // _BLOCK) * _BLOCK
        os.ftruncate(descriptor, position)
        yield _CubeFile(descriptor, offsets, layers)
        os.replace(part, path)
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)


def _put(descriptor: int, position: int, header: fits.Header) -> int:
    text = header.tostring().encode("ascii")
    os.pwrite(descriptor, text, position)
    return position + len(text)


def _primary(scene: Scene, title: str) -> fits.Header:
    header = fits.PrimaryHDU().header
    header["ORIGIN"] = ("lucidcube", "simulated, not observed")
    header["TELESCOP"] = ("ESO-VLT-U4", "imitated")
    header["INSTRUME"] = ("MUSE", "imitated")
    header["OBJECT"] = title
    header["RA"], header["DEC"] = scene.sky_centre
    header["HIERARCH ESO INS MODE"] = "NFM-AO-N"
    header["HIERARCH LUCIDCUBE SEED"] = scene.seed
    return header


def _observation(scene: Scene, field: tuple[int, int]) -> list[_Layer]:
    shared = {"HDUCLASS": "ESO", "HDUDOC": "DICD", "HDUVERS": "DICD version 6", "HDUCLAS1": "IMAGE"}
    data = _grid(scene, field, _FLUX, shared | {"HDUCLAS2": "DATA", "ERRDATA": "STAT"})
    stat = _grid(
        scene, field, _VARIANCE, shared | {"HDUCLAS2": "ERROR", "HDUCLAS3": "MSE", "SCIDATA": "DATA"}
    )
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
    """World coordinates (the middle of `field` at the centre of the sky; Angstrom), unit, other `cards`."""
    header = fits.Header()
    for key, value in (cards or {}).items():
        header[key] = value
    if unit:
        header["BUNIT"] = unit
    header["CTYPE1"], header["CTYPE2"], header["CTYPE3"] = "RA---TAN", "DEC--TAN", "AWAV"
    header["CUNIT1"], header["CUNIT2"], header["CUNIT3"] = "deg", "deg", "Angstrom"
    header["CRPIX1"], header["CRPIX2"], header["CRPIX3"] = (field[1] + 1) / 2, (field[0] + 1) / 2, 1.0
    header["CRVAL1"], header["CRVAL2"] = scene.sky_centre
    header["CRVAL3"] = round(scene.first_wavelength * 1e10, 6)
    matrix = scene.sky_matrix
    header["CD1_1"], header["CD1_2"] = float(matrix[0, 0]), float(matrix[0, 1])
    header["CD2_1"], header["CD2_2"] = float(matrix[1, 0]), float(matrix[1, 1])
    header["CD1_3"], header["CD2_3"], header["CD3_1"], header["CD3_2"] = 0.0, 0.0, 0.0, 0.0
    header["CD3_3"] = round(scene.wavelength_step * 1e10, 9)
    header["RADESYS"], header["EQUINOX"] = "FK5", 2000.0
    return header
