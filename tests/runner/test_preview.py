"""Planes of a preview: the same as those of the whole run, and nothing else is computed or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from commands import call
from lucidcube.cli.app import main
from lucidcube.io.reader import open_cube
from lucidcube.io.specifier import Specifier
from lucidcube.runner.preview import MOST, spread_planes
from lucidcube.simulate import Scene, write_scene

PLANES = 42
SCENE = Scene(shape=(PLANES, 21, 21), seed=5, wavelength_step=1e-9)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a target and a star."""
    folder = tmp_path_factory.mktemp("scene")
    write_scene(SCENE, folder)
    return folder


def config(scene: Path, folder: Path, **others: Any) -> Path:
    """Write a config with the recommended chain."""
    path = folder / "run.yaml"
    lines = {
        "target": f"{{input: {scene}/target.fits}}",
        "star": f"{{input: {scene}/star.fits}}",
        "deconvolve": "{n_iter: 8}",
        "output": f"{{path: {folder}/sharp.fits, products: [deconvolved, residual, psf, log, fit, filled, mask, badness, variance, provenance]}}",
        "profile": "synchronous",
    }
    path.write_text("".join(f"{k}: {v}\n" for k, v in {**lines, **others}.items()))
    return path


def assert_same_planes(preview: Path, whole: Path, planes: list[int]) -> None:
    """Compare every image and every table of a preview with the planes of a run."""
    with fits.open(preview) as some, fits.open(whole) as every:
        names = {h.name for h in every} - {"PROVENANCE"}
        # What belongs to the planes of the star, and not to those of the target, is left out.
        assert names - {h.name for h in some} <= {"PSF_MODES", "FITTED MODEL PARAMS"}
        for name in names & {h.name for h in some}:
            a, b = some[name].data, every[name].data
            rows = planes if len(b) > 1 else [0]
            if isinstance(every[name], fits.BinTableHDU):
                for column in b.names:
                    np.testing.assert_array_equal(a[column], b[column][rows], err_msg=f"{name} {column}")
            else:
                np.testing.assert_array_equal(a, np.broadcast_to(b[rows], a.shape), err_msg=name)


VARIANTS: dict[str, dict[str, Any]] = {
    "recommended": {},
    "errors": {"deconvolve": "{n_iter: 5, errors: {draws: 2}, method: lucy_richardson}"},
    "fitted broadening": {
        "preset": "recommended",
        "target": "{input: SCENE/target.fits, stages: [noise, {broaden_psf: {fwhm: fit}}, artefacts, mask, interpolate]}",
    },
    "formula": {"star": "{psf: {model: moffat, fwhm: 3}}"},
    "reference": {"preset": "reference"},
    # Every stage reads its neighbours' planes through all stages before it, so these are quick ones.
    "one checkpoint": {
        "checkpoints": "{after: []}",
        "target": "{input: SCENE/target.fits, stages: [noise, {artefacts: {method: ssa}}, mask, {interpolate: {n_iter: 5}}]}",
        "star": "{input: SCENE/star.fits, stages: [normalise_psf]}",
        "deconvolve": "{method: lucy_richardson, n_iter: 5}",
    },
    "no deconvolution": {"star": "null", "deconvolve": "null"},
    "a star of one plane": {"star": "{input: 'SCENE/star.fits[20:21]'}"},
    "a star on another grid": {"star": "{input: 'SCENE/star.fits[::3]'}", "target": "{input: 'SCENE/target.fits[1:40]'}"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_planes_equal_those_of_the_whole_run(variant: str, scene: Path, tmp_path: Path) -> None:
    path = config(
        scene, tmp_path, **{k: v.replace("SCENE", str(scene)) for k, v in VARIANTS[variant].items()}
    )
    planes = [3, 17, 18]
    main(["preview", str(path), "--channels", "18,3,17", "--quiet"])
    page = (tmp_path / "sharp-preview.html").read_text()
    assert "This is a preview" in page
    assert "plane 17 of 0 to" in page
    assert not (tmp_path / "sharp.fits").exists()
    main(["run", str(path), "--quiet", "--no-report"])
    assert_same_planes(tmp_path / "sharp-preview.fits", tmp_path / "sharp.fits", planes)
    with fits.open(tmp_path / "sharp-preview.fits") as hdus:
        assert hdus["PREVIEW"].data["plane"].tolist() == planes
        count = len(fits.getdata(tmp_path / "sharp.fits"))
        assert hdus["PREVIEW"].data["of"].tolist() == [count] * 3
    few = open_cube(Specifier(str(tmp_path / "sharp-preview.fits"), ext=0))["wavelength"].values
    every = open_cube(Specifier(str(tmp_path / "sharp.fits"), ext=0))["wavelength"].values
    np.testing.assert_allclose(few, every[planes], rtol=1e-9)


def small(folder: Path, planes: int = 24) -> Path:
    """Write a config of stages that are quick, with a star from a formula, and its target."""
    write_scene(Scene(shape=(planes, 21, 21), seed=5, wavelength_step=1e-9), folder)
    stages = "[noise, {artefacts: {method: ssa}}, mask, {interpolate: {n_iter: 5}}]"
    return config(
        folder,
        folder,
        target=f"{{input: {folder}/target.fits, stages: {stages}}}",
        star="{psf: {model: moffat, fwhm: 3}}",
        deconvolve="{method: lucy_richardson, n_iter: 5}",
    )


@pytest.mark.slow
def test_planes_equal_those_of_the_run_and_checkpoints_are_kept_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small(tmp_path)
    code, out, err = call(capsys, "preview", path, "--channels", "3,12", "--no-open")
    assert (code, out.strip()) == (0, str(tmp_path / "sharp-preview.html"))
    assert (tmp_path / "sharp-preview.html").read_text().count("This is a preview") == 1
    work = {p.name for p in (tmp_path / "target.work").iterdir()}
    assert work == {"preview", "inputs.json"}
    _, out, _ = call(capsys, "prune", path)
    assert "artefacts" in out
    # With other parameters of later stages, the blocks of the earlier ones are not computed again.
    code, _, err = call(capsys, "preview", path, "--channels", "3,12", "--set", "target.mask.cut=4")
    assert "target: noise, artefacts: reused" in err
    call(capsys, "preview", path, "--channels", "3,12", "--quiet")
    call(capsys, "run", path, "--quiet", "--no-report")
    assert_same_planes(tmp_path / "sharp-preview.fits", tmp_path / "sharp.fits", [3, 12])
    # The complete checkpoints of a run are used.
    _, _, err = call(capsys, "preview", path, "--wave", "0.7um")
    assert err.count("blocks") <= 4, err


def test_an_image_is_previewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small(tmp_path, planes=1)
    code, out, _ = call(capsys, "preview", path, "--quiet")
    assert code == 0
    assert "the only plane" in Path(out.strip()).read_text()
    assert fits.getdata(tmp_path / "sharp-preview.fits").shape[-2:] == (21, 21)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--channels", "24"], "there is no plane 24: the planes after rebinning are 0 to 23"),
        (["--channels", "1,x"], "--channels x: the number of a plane is a whole number from 0"),
        (["--channels", "-1"], "--channels -1: the number of a plane is a whole number from 0"),
        (["--wave", "3um"], "wavelength 3um is outside the cube's range"),
        (["--wave", "red"], "'red' is not a position on the spectral axis"),
    ],
)
def test_wrong_planes_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "preview", small(tmp_path), "--quiet", *options)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "sharp-preview.fits").exists()


def test_too_many_planes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ",".join(map(str, range(MOST + 1)))
    code, _, err = call(capsys, "preview", small(tmp_path, planes=MOST + 2), "--channels", numbers)
    assert code == 2
    assert f"{MOST + 1} planes are too many for a preview" in err


@pytest.mark.parametrize(
    ("total", "expected"), [(300, [50, 150, 250]), (3, [0, 1, 2]), (2, [0, 1]), (1, [0])]
)
def test_planes_are_spread_over_the_cube(total: int, expected: list[int]) -> None:
    assert spread_planes(total) == expected
