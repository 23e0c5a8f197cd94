"""The report of a run: from FITS to FITS and to a page, its numbers, its images, and what can go wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
from astropy.io import fits

from browser import chromium
from html_page import Page
from lucidcube.cli.app import main
from lucidcube.config.load import load
from lucidcube.config.origins import origins, settings
from lucidcube.report import page as pages
from lucidcube.simulate import Scene, write_scene

HOSTILE = '</h1><script>alert(1)</script><img src=x onerror="alert(2)">'
NUMBER = {"type": ["number", "null"]}
COLUMN = {"type": "array", "items": NUMBER}
SCHEMA = {
    "type": "object",
    "required": ["format", "product", "warnings", "summary", "wavelength", "log", "measured", "spectra", "inputs",
                 "config", "origins", "versions", "run"],
    "additionalProperties": False,
    "properties": {
        "format": {"const": "lucidcube report 1"},
        "product": {"type": "object", "required": ["file", "bytes", "datasum", "version", "hdus"]},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "summary": {
            "type": "object",
            "properties": {"stop_reasons": {"type": "object", "additionalProperties": {"type": "integer"}}},
            "additionalProperties": NUMBER,
        },
        "wavelength": {"type": "object", "properties": {"unit": {"type": "string"}, "values": COLUMN}},
        "log": {
            "type": "object",
            "properties": {"stop_reason_text": {"type": "array", "items": {"type": "string"}}},
            "additionalProperties": COLUMN,
        },
        "measured": {"type": "object", "required": ["plane"], "additionalProperties": COLUMN},
        "spectra": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": COLUMN}},
        "inputs": {"type": "object", "additionalProperties": {"type": "object", "required": ["file", "sha256"]}},
        "config": {"type": "object"},
        "origins": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "versions": {"type": "object", "required": ["lucidcube", "numpy"]},
        "run": {"type": ["object", "null"], "required": ["started", "seconds", "memory", "parts", "computer"]},
    },
}  # fmt: skip


class Run(NamedTuple):
    """A run with a report: its folder, its config, and what the report says."""

    folder: Path
    config: Path
    product: Path
    text: str
    page: Page
    numbers: dict[str, Any]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the recommended chain on a small scene with a hostile value in its header."""
    folder = tmp_path_factory.mktemp("run")
    write_scene(Scene(shape=(12, 33, 33), seed=4, wavelength_step=1e-9), folder, truth=True)
    with fits.open(folder / "target.fits", "update") as hdus:
        hdus[0].header["OBJECT"] = HOSTILE
    config = folder / "run.yaml"
    config.write_text(
        f"target: {{input: {folder}/target.fits}}\nstar: {{input: {folder}/star.fits}}\n"
        f"deconvolve: {{n_iter: 20}}\noutput: {{path: {folder}/sharp.fits}}\nprofile: synchronous\n"
    )
    main(["run", str(config), "--quiet", "--set", "target.mask.grow=2.0"])
    text = (folder / "sharp.html").read_text()
    numbers = json.loads((folder / "sharp.json").read_text())
    return Run(folder, config, folder / "sharp.fits", text, Page(text), numbers)


def test_the_page_is_well_formed_and_small(ran: Run) -> None:
    assert ran.text.startswith("<!DOCTYPE html>")
    assert len(ran.text) < 3_000_000
    headings = [tag for tag, _ in ran.page.tags if tag in ("h1", "h2")]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    ids = [attrs["id"] for _, attrs in ran.page.tags if "id" in attrs]
    assert len(ids) == len({*ids})
    links = {str(a["href"])[1:] for tag, a in ran.page.tags if tag == "a"}
    labels = {str(a["aria-labelledby"]) for _, a in ran.page.tags if "aria-labelledby" in a}
    assert links | labels <= {*ids}


def test_every_image_has_a_text_and_is_in_the_page(ran: Run) -> None:
    assert len(ran.page.images) > 80
    for image in ran.page.images:
        assert image["alt"]
        assert str(image["src"]).startswith("data:image/png;base64,")
    for tag, attrs in ran.page.tags:
        if tag == "svg":
            assert attrs["aria-label"]
    wanted = {"Before", "After", "Cleaned", "Model", "Residual", "Error", "Mask", "Badness", "PSF", "Star"}
    have = {w for w in wanted if f"<figcaption>{w}" in ran.text}
    assert wanted - have == {"Error"}  # not among the products of this method


def test_nothing_is_loaded_from_elsewhere(ran: Run) -> None:
    addresses = [v for _, a in ran.page.tags for k, v in a.items() if k in ("src", "href") and v is not None]
    assert all(v.startswith(("data:", "#")) for v in addresses)
    assert "http:" not in ran.text.replace("http://www.w3.org", "")
    assert "https:" not in ran.text


def test_untrusted_texts_are_escaped(ran: Run) -> None:
    assert HOSTILE not in ran.text
    assert HOSTILE in ran.page.text
    assert sum(tag == "script" for tag, _ in ran.page.tags) == 1
    assert not any("onerror" in attrs for _, attrs in ran.page.tags)


def test_the_numbers_have_their_schema_and_agree_with_the_product(ran: Run) -> None:
    jsonschema.validate(ran.numbers, SCHEMA)
    with fits.open(ran.product) as hdus:
        log = hdus["DECONVOLUTION LOG"].data
        for name in ("iterations", "flux_in", "flux_out", "chi2", "chi2_bright", "residual_structure"):
            got = np.array(ran.numbers["log"][name], float)
            np.testing.assert_array_equal(got, np.asarray(log[name], float))
        summary = ran.numbers["summary"]
        assert summary["chi2_bright"] == pytest.approx(float(np.nanmedian(log["chi2_bright"])))
        assert summary["flux_ratio"] == pytest.approx(float(np.nanmedian(log["flux_out"] / log["flux_in"])))
        assert sum(summary["stop_reasons"].values()) == len(log)
        psf = hdus["PSF"].data
        measured = ran.numbers["measured"]
        for place, plane in enumerate(measured["plane"]):
            assert measured["psf_peak"][place] == pytest.approx(psf[plane].max() / psf[plane].sum(), rel=1e-5)
        assert ran.numbers["warnings"] == [v for k, v in hdus[0].header.items() if k.startswith("LCWARN")]
    assert summary["sharpness_gain"] > 1.1
    assert ran.numbers["product"]["bytes"] == ran.product.stat().st_size


def test_the_run_is_recorded_by_segment(ran: Run) -> None:
    run = ran.numbers["run"]
    labels = [part["label"] for part in run["parts"]]
    assert labels[-1] == "product"
    assert "target: deconvolve" in labels
    assert all(part["computed"] == part["blocks"] > 0 for part in run["parts"])
    assert all(part["cpu_seconds"] > 0 for part in run["parts"])
    assert sum(part["seconds"] for part in run["parts"]) <= run["seconds"]
    assert sum(part["nbytes"] for part in run["parts"]) == run["nbytes"] + run["product_bytes"]


def test_the_config_says_where_its_values_come_from(ran: Run) -> None:
    assert ran.numbers["config"].keys() == ran.numbers["origins"].keys()
    wanted = {
        "target.input": "run.yaml:1",
        "deconvolve.n_iter": "run.yaml:3",
        "target.mask.grow": "--set",
        "target.stages": "preset recommended",
        "target.rebin.preset": "preset recommended",
        "target.mask.cut": "default",
        "deconvolve.method": "default",
    }
    assert {key: ran.numbers["origins"][key] for key in wanted} == wanted


def test_origins_of_several_files_and_numbered_stages(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(
        "target: {input: t.fits, stages: [rebin: {despike: 5}, noise, rebin]}\nstar: s.fits\noutput: {path: x.fits}\n"
    )
    second.write_text("output: {overwrite: true}\nprofile: synchronous\n")
    sets = ["target.rebin[1].despike=7", "profile=laptop"]
    config = load([first, second], sets)
    found, values = origins(config, [first, second], sets), settings(config.plain())
    assert found["target.rebin[0].despike"] == "a.yaml:1"
    assert (found["target.rebin[1].despike"], values["target.rebin[1].despike"]) == ("--set", 7)
    assert found["target.rebin[1].preset"] == "default"
    assert found["star.input"] == "a.yaml:2"
    assert (found["output.path"], found["output.overwrite"], found["profile"]) == (
        "a.yaml:3",
        "b.yaml:1",
        "--set",
    )
    second.write_text("target: {input: t.fits, stages: [noise]}\n")
    assert "target.rebin.despike" not in origins(load([first, second]), [first, second])
    assert origins(load([first, second]), [first, second])["target.stages"] == "b.yaml:1"


def test_origins_of_a_preset_and_of_a_formula(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "preset: reference\ntarget: {input: t.fits}\nstar: {psf: {model: moffat, fwhm: 3}}\ndeconvolve: {method: clean_modified}\n"
    )
    found = origins(load(file), [file])
    assert found["target.artefacts.method"] == "preset reference"
    assert found["deconvolve.noise_std"] == "preset reference"
    assert found["star.psf.fwhm"] == "c.yaml:3"
    assert found["deconvolve.n_iter"] == "default"


def test_the_page_is_the_same_again(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(ran.product)])
    assert capsys.readouterr().out == f"{ran.folder}/sharp.html\n"
    assert (ran.folder / "sharp.html").read_text() == ran.text
    assert json.loads((ran.folder / "sharp.json").read_text()) == ran.numbers


def test_the_report_from_the_config(ran: Run) -> None:
    main(["report", str(ran.config), "--set", "target.mask.grow=2.0"])
    assert (ran.folder / "sharp.html").read_text() == ran.text


def test_without_checkpoints_images_are_left_out(ran: Run, tmp_path: Path) -> None:
    shutil.copy(ran.product, tmp_path / "alone.fits")
    with fits.open(tmp_path / "alone.fits", "update") as hdus:
        table = hdus["PROVENANCE"].data
        values = [str(v).replace(f"{ran.folder}/", "/nowhere/") for v in table["VALUE"]]
        columns = [fits.Column("KEY", "20A", array=table["KEY"]), fits.Column("VALUE", "9000A", array=values)]
        hdus["PROVENANCE"] = fits.BinTableHDU.from_columns(columns, name="PROVENANCE")
    main(["report", str(tmp_path / "alone.fits")])
    text = (tmp_path / "alone.html").read_text()
    assert "The inputs of the run could not be opened" in Page(text).text
    assert "<figcaption>Before" not in text
    assert "<figcaption>After" in text
    assert "<figcaption>Residual" in text
    jsonschema.validate(json.loads((tmp_path / "alone.json").read_text()), SCHEMA)
    assert json.loads((tmp_path / "alone.json").read_text())["run"] is None


@pytest.mark.slow
def test_a_run_without_report(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(ran.config), "--no-report", "--set", f"output.path={ran.folder}/plain.fits"])
    assert not (ran.folder / "plain.html").exists()
    assert "report" not in capsys.readouterr().err
    with fits.open(ran.product) as a, fits.open(ran.folder / "plain.fits") as b:
        assert [h.name for h in a] == [h.name for h in b]


@pytest.mark.slow
def test_the_paths_are_printed(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = ran.folder / "printed.fits"
    main(["run", str(ran.config), "--set", f"output.path={path}"])
    output = capsys.readouterr()
    assert output.out == f"{path}\n"
    assert output.err.splitlines()[-1] == f"report: {ran.folder}/printed.html"


def test_a_file_that_is_not_ours_is_kept_and_the_run_succeeds(
    ran: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path, mine = ran.folder / "mine.fits", ran.folder / "mine.html"
    mine.write_text("<p>my notes</p>")
    main(["run", str(ran.config), "--quiet", "--set", f"output.path={path}"])
    output = capsys.readouterr()
    assert output.out == f"{path}\n"
    (line,) = output.err.splitlines()
    assert line.startswith("lucidcube: warning: the report was not written: ")
    assert "was not made by lucidcube" in line
    assert mine.read_text() == "<p>my notes</p>"


@pytest.mark.slow
def test_a_failure_is_a_warning(
    ran: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(pages, "write_atomically", fail)
    path = ran.folder / "full.fits"
    main(["run", str(ran.config), "--quiet", "--set", f"output.path={path}"])
    output = capsys.readouterr()
    assert output.out == f"{path}\n"
    assert "No space left" in output.err
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["report"], ["compare", "{product}"]])
def test_a_file_that_is_not_a_product(
    ran: Run, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main([a.format(product=ran.product) for a in arguments] + [str(ran.folder / "target.fits")])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no PROVENANCE table" in line


def test_a_config_that_was_not_run(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["report", str(ran.config), "--set", "output.path=never.fits"])
    assert done.value.code == 2
    assert "never.fits does not exist yet: lucidcube run" in capsys.readouterr().err


# In a browser


@pytest.mark.slow
def test_in_a_browser(ran: Run, tmp_path: Path) -> None:
    with chromium() as browser:
        page = browser.open(ran.folder / "sharp.html")
        assert page.requests == [(ran.folder / "sharp.html").as_uri()]
        assert page.complaints == []
        visible = "[...document.querySelectorAll('.plane')].map(p => p.offsetHeight > 0)"
        label = "document.getElementById('scrub-label').textContent"
        assert page.evaluate(visible).count(True) == 1
        assert page.evaluate(label).startswith("white light")
        page.press("ArrowRight")
        page.press("ArrowRight")
        assert page.evaluate(visible).index(True) == 2
        page.press("ArrowLeft")
        assert page.evaluate(visible).index(True) == 1
        assert page.evaluate(label) == page.evaluate("document.querySelectorAll('.plane')[1].dataset.label")
        page.click("#scrub", 0.99)
        assert page.evaluate(visible)[-1]
        page.press("ArrowLeft")  # the slider has the focus now
        assert page.evaluate(visible)[-2]
        assert page.evaluate("document.activeElement.id") == "scrub"
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert page.screenshot(tmp_path / "page.png").stat().st_size > 50_000
        for width in (400, 1280):
            page.open(ran.folder / "sharp.html", width=width)
            assert page.evaluate(
                "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            )
        assert page.complaints == []
        assert page.evaluate("document.querySelector('.scrubber label').control.id") == "scrub"


@pytest.mark.slow
def test_in_a_browser_without_scripts(ran: Run) -> None:
    with chromium() as browser:
        page = browser.open(ran.folder / "sharp.html", script=False)
        planes = page.page.locator(".plane").all()
        assert len(planes) >= 9
        for plane in planes:
            assert plane.bounding_box()["height"] > 100


# Two products


@pytest.mark.slow
def test_compare(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    other = ran.folder / "less.fits"
    sets = ["--set", f"output.path={other}", "--set", "deconvolve.n_iter=3", "--set", "target.mask.grow=2.0"]
    main(["run", str(ran.config), "--quiet", "--no-report", *sets])
    capsys.readouterr()
    truth = ran.folder / "true.fits"
    with fits.open(ran.product) as hdus:  # any cube on the same grid
        data = hdus[0].data + 1
        fits.PrimaryHDU(data, hdus[0].header).writeto(truth)
    main(["compare", str(ran.product), str(other), "--truth", str(truth)])
    path = ran.folder / "sharp-vs-less.html"
    assert capsys.readouterr().out == f"{path}\n"
    page = Page(path.read_text())
    assert "relative error against the truth" in page.text
    assert "deconvolve.n_iter" in page.text
    assert "target.mask.grow" not in page.text
    assert all(image["alt"] for image in page.images)
    with chromium() as browser:
        opened = browser.open(path)
        assert opened.requests == [path.as_uri()]
        assert opened.complaints == []
        seen = "getComputedStyle(document.querySelector('.plane.current .blink img')).display"
        assert opened.evaluate(seen) == "block"
        opened.press("b")
        assert opened.evaluate(seen) == "none"
        opened.click("#blink")
        assert opened.evaluate(seen) == "block"
        assert opened.evaluate("document.getElementById('blink').getAttribute('aria-pressed')") == "false"


def test_the_error_against_the_truth(ran: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with fits.open(ran.product) as hdus:
        data = np.nan_to_num(hdus[0].data) * 1.25
        fits.PrimaryHDU(data.astype(np.float32), hdus[0].header).writeto(ran.folder / "scaled.fits")
    page = ran.folder / "same.html"
    main(
        [
            "compare",
            str(ran.product),
            str(ran.product),
            "--truth",
            str(ran.folder / "scaled.fits"),
            "-o",
            str(page),
        ]
    )
    assert "0.2000" in Page(page.read_text()).text  # (1 - 1.25) / 1.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, header: (data[:5], header), "12 x 33 x 33 pixels and .*5 x 33 x 33"),
        (lambda data, header: (data[:, 1:], header), "12 x 32 x 33"),
        (lambda data, header: (data, header | {"CRVAL3": header["CRVAL3"] + 50}), "the wavelengths of"),
    ],
)  # fmt: skip
def test_grids_that_differ(
    ran: Run, change: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fits.open(ran.product) as hdus:
        header = hdus[0].header
        data, cards = change(hdus[0].data, dict(header))
        header["CRVAL3"] = cards["CRVAL3"]
        fits.PrimaryHDU(data, header).writeto(tmp_path / "other.fits")
    with pytest.raises(SystemExit) as done:
        main(
            [
                "compare",
                str(ran.product),
                str(ran.product),
                "--truth",
                str(tmp_path / "other.fits"),
                "-o",
                str(tmp_path / "x.html"),
            ]
        )
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    import re

    assert re.search(message, line), line
    assert not (tmp_path / "x.html").exists()
