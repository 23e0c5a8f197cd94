"""Reports of other configs: images, no star, a formula as PSF, other methods and products, from FITS to FITS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from config_scenes import observe, planet
from html_page import Page
from lucidcube.config.load import from_plain
from lucidcube.report.finished_run import finished_run
from lucidcube.report.page import verdicts, write_report
from lucidcube.report.planes import choose
from lucidcube.report.product_file import ProductFile
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scene")
    write_scene(Scene(shape=(3, 25, 25), seed=3, wavelength_step=1e-9), made)
    return made


def report_of(folder: Path, name: str, **values: Any) -> tuple[Page, dict[str, Any]]:
    """Run a config, and return its page and its numbers."""
    path = folder / f"{name}.fits"
    config = {"target": {"input": str(folder / "target.fits")}, "profile": "synchronous"} | values
    config["output"] = {"path": str(path), **config.get("output", {})}
    run(from_plain(config))
    page = Page(write_report(path).read_text())
    assert all(image["alt"] for image in page.images)
    return page, json.loads(path.with_suffix(".json").read_text())


def titles(page: Page) -> set[str]:
    """Return the words with which the texts of the images begin."""
    return {str(image["alt"]).split(",")[0] for image in page.images}


def test_an_image(tmp_path: Path) -> None:
    files = observe(planet(51), tmp_path, seed=1, sky=100, variance=False)
    page, numbers = report_of(
        tmp_path,
        "image",
        target={"input": str(files.target)},
        star={"input": str(files.star)},
        deconvolve={"n_iter": 15},
    )
    assert numbers["wavelength"]["values"] == [None]
    assert numbers["measured"]["plane"] == [0]
    assert "the only plane" in page.text
    assert not any(a.get("id") == "scrub" for _, a in page.tags)
    assert any(t.startswith("The star") for t in titles(page))
    assert "The log of the only plane" in page.text
    assert numbers["measured"]["psf_fwhm"][0] == pytest.approx(3.5, abs=0.4)  # a star of 44 x 48 pixels


@pytest.mark.slow
def test_the_methods_of_the_reference(folder: Path) -> None:
    page, numbers = report_of(
        folder,
        "reference",
        preset="reference",
        star={"input": str(folder / "star.fits")},
        deconvolve={"method": "clean_modified", "n_iter": 5},
    )
    assert numbers["summary"]["deconvolved"] == 3
    assert "method clean_modified" in page.text


def test_tiny_fluxes_have_one_scale(folder: Path, tmp_path: Path) -> None:
    with fits.open(folder / "target.fits") as hdus:
        hdus["DATA"].data *= 1e-20
        hdus["STAT"].data = hdus["STAT"].data.astype(np.float64) * 1e-40
        wanted = hdus["DATA"].data[1].copy()
        hdus.writeto(tmp_path / "target.fits")
    star = {"psf": {"model": "moffat", "fwhm": 3.0}}
    target = {"input": str(tmp_path / "target.fits"), "stages": []}
    values = {"target": target, "star": star, "deconvolve": {"n_iter": 30}, "profile": "synchronous"}
    path = tmp_path / "tiny.fits"
    run(from_plain(values | {"output": {"path": str(path)}}))
    with ProductFile(path) as product:
        made = finished_run(product)
        planes = {name: made.plane(name, 1) for name in ("before", "cleaned", "after", "model", "variance")}
    np.testing.assert_allclose(planes["before"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(planes["before"], planes["cleaned"])
    totals = {name: np.nansum(plane) for name, plane in planes.items() if plane is not None}
    assert totals["after"] == pytest.approx(totals["before"], rel=0.3)
    assert totals["model"] == pytest.approx(totals["before"], rel=0.1)
    assert 0 < totals["variance"] < 1e-30
    write_report(path)


def test_without_a_star(folder: Path) -> None:
    page, numbers = report_of(folder, "no-star")
    assert "was processed without deconvolution" in page.text
    assert "The product has no PSF." in page.text
    assert numbers["summary"]["stop_reasons"] == {}
    assert numbers["summary"]["chi2"] is None


def test_a_formula_as_psf(folder: Path) -> None:
    star = {"psf": {"model": "moffat", "fwhm": 3.0}}
    target = {"input": str(folder / "target.fits"), "stages": []}
    page, numbers = report_of(folder, "formula", target=target, star=star, deconvolve={"n_iter": 5})
    assert "a PSF from a formula" in page.text
    assert numbers["summary"]["psf_fwhm"] == pytest.approx(3.1, abs=0.1)  # with the pixels
    assert not any(t.startswith("The star") for t in titles(page))


def test_a_psf_of_one_plane(folder: Path, tmp_path: Path) -> None:
    y, x = np.indices((21, 21)) - 10
    psf = np.exp(-(x**2 + y**2) / 6.0) / (6 * np.pi)
    fits.PrimaryHDU(psf.astype(np.float32)).writeto(tmp_path / "psf.fits")
    target = {"input": str(folder / "target.fits"), "stages": []}
    star = {"input": str(tmp_path / "psf.fits"), "stages": []}
    _, numbers = report_of(folder, "one", target=target, star=star, deconvolve={"n_iter": 5})
    assert numbers["measured"]["psf_fwhm"] == pytest.approx([2.3548 * 3**0.5] * 3, rel=0.03)


@pytest.mark.slow
def test_a_product_of_tables_and_residuals_only(folder: Path) -> None:
    page, _ = report_of(
        folder,
        "few",
        star={"input": str(folder / "star.fits")},
        deconvolve={"n_iter": 5},
        output={"products": ["residual"]},
    )
    assert any(t.startswith("The result") for t in titles(page))  # from the checkpoint


@pytest.mark.slow
def test_errors_are_shown(folder: Path) -> None:
    page, _ = report_of(
        folder,
        "errors",
        star={"input": str(folder / "star.fits")},
        deconvolve={"n_iter": 5, "errors": True},
        output={"products": ["deconvolved"]},  # whoever asks for errors gets them
    )
    assert "Standard error of the result" in titles(page)


@pytest.mark.slow
def test_planes_without_data_are_not_chosen(folder: Path) -> None:
    path = folder / "holes.fits"
    scene = Scene(shape=(24, 21, 21), seed=3, wavelength_step=1e-9)
    write_scene(scene, folder / "long")
    target = {"input": str(folder / "long" / "target.fits"), "stages": []}
    star = {"input": str(folder / "long" / "star.fits"), "stages": ["fit_psf"]}
    config = {"target": target, "star": star, "deconvolve": {"method": "lucy_richardson", "n_iter": 1}}
    run(from_plain(config | {"output": {"path": str(path)}, "profile": "synchronous"}))
    with ProductFile(path) as product:
        shown, sampled = choose(product)
        structure = product.table("DECONVOLUTION LOG")["residual_structure"]
        assert scene.empty_plane not in {*shown, *sampled}
        assert {0, 23} <= {*shown}
        assert np.nanargmax(structure) in shown
        assert 8 <= len(shown) <= 9
    write_report(path)


def test_verdicts() -> None:
    usual = dict.fromkeys(
        ("sharpness_gain", "residual_structure", "chi2_bright", "flux_ratio", "marked", "psf_fwhm")
    )
    assert verdicts(usual) == []
    states = {
        v["label"]: v["state"]
        for v in verdicts(usual | {"residual_structure": 3.0, "chi2_bright": 1.0, "psf_fwhm": 2.0})
    }
    assert states == {
        "Structure of the residual": "odd",
        "χ² of bright pixels": "fine",
        "FWHM of the PSF": "plain",
    }


@pytest.mark.slow
def test_only_the_report_needs_its_packages() -> None:
    program = (
        "import sys; from lucidcube.cli.app import app; app(['--help']); "
        "made = {'jinja2'} & {*sys.modules}; import lucidcube.runner.pipeline, lucidcube.cli.console; "
        "print(made | ({'matplotlib', 'PIL'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")
