"""The benchmark of quality: figures against analytic truth, scenes, and a run from end to end."""

from __future__ import annotations

import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from locations import ROOT, SHARED

sys.path.insert(0, str(ROOT))
line_metrics, method, metrics, report, scenes, score, sensitivity, worker = (
    importlib.import_module(f"benchmarks.quality.{name}")
    for name in ("line_metrics", "method", "metrics", "report", "scenes", "score", "sensitivity", "worker")
)
observe = importlib.import_module("benchmarks.quality.observe")
scene_files = importlib.import_module("benchmarks.quality.scene")
sys.path.remove(str(ROOT))

Array = NDArray[Any]
DISC = {"y": 40.0, "x": 40.0, "radius": 18.0, "flattening": 0.02, "pole": -0.4}
LINES = {"first": 6.0, "separation": 5.3, "width": 0.9, "speed": 180.0}


def minnaert_disc(radius: float, k: float, fine: int = 8) -> Array:
    """Return a disc by Minnaert's law, each pixel the mean of `fine` x `fine` points."""
    y, x = (np.indices((81 * fine, 81 * fine)) + 0.5) / fine - 0.5
    y, x = y - DISC["y"], x - DISC["x"]
    across = x * np.cos(DISC["pole"]) + y * np.sin(DISC["pole"])
    along = (y * np.cos(DISC["pole"]) - x * np.sin(DISC["pole"])) / (1 - DISC["flattening"])
    mu = np.sqrt(np.clip(1 - (across**2 + along**2) / radius**2, 0, None))
    return (1000 * mu ** (2 * k - 1) * (mu > 0)).reshape(81, fine, 81, fine).mean(axis=(1, 3))


@pytest.mark.parametrize("shift", [-0.6, 0.3, 1.0])
def test_a_known_shift_of_the_limb_is_measured(shift: float) -> None:

    figures = metrics.disc_figures(
        minnaert_disc(18.0 + shift, 0.7)[None], minnaert_disc(18.0, 0.7)[None], DISC
    )
    assert figures["limb"] == pytest.approx(shift, rel=0.15)


@pytest.mark.parametrize("k", [0.5, 0.75, 0.95])
def test_the_k_of_minnaert_is_measured(k: float) -> None:
    assert metrics.minnaert(minnaert_disc(18.0, k), DISC) == pytest.approx(k, abs=0.02)


def cube_of_lines(shift: Array, ratio: float) -> Array:
    channel = np.arange(18)[:, None, None]
    one, two = (np.exp(-0.5 * ((channel - 6.0 - shift - s) / 0.9) ** 2) for s in (0.0, 5.3))
    return 100 * (one + ratio * two) + 30


def test_known_shifts_of_lines_and_ratios_are_measured() -> None:
    x = np.linspace(-1.5, 1.5, 31) * np.ones((31, 1))
    where = np.ones((31, 31), bool)
    where[:4] = where[-4:] = where[:, :4] = where[:, -4:] = False  # smoothing changes the edge
    truth = cube_of_lines(x, 0.4)
    figures = line_metrics.line_figures(cube_of_lines(x + 0.25, 0.5), truth, where, LINES)
    assert figures["velocity_bias"] == pytest.approx(0.25 * 180, abs=1.5)
    assert figures["velocity_scatter"] < 1.5
    assert figures["line_ratio"] == pytest.approx(0.25, abs=0.01)
    assert figures["rotation"] == pytest.approx(0.0, abs=0.01)
    slower = line_metrics.line_figures(cube_of_lines(0.8 * x, 0.4), truth, where, LINES)
    assert slower["rotation"] == pytest.approx(-0.2, abs=0.01)
    assert slower["velocity_bias"] == pytest.approx(0.0, abs=1.5)


def test_injected_sources_are_counted_and_noise_is_not() -> None:
    y, x = np.indices((41, 41)) - 20
    psf = np.exp(-(y**2 + x**2) / (2 * 1.5**2))
    psf, sky = (psf / psf.sum())[None], np.ones((61, 61), bool)
    variance = np.full((1, 61, 61), 4.0)
    sigma = 2.0 / np.sqrt(np.square(psf).sum())
    image = np.zeros((1, 61, 61))
    for place, factor in (((15, 20), 3.5), ((30, 41), 5.5), ((45, 12), 2.5)):
        image[0][place] = factor * sigma
    sky[:, 38:45] = False
    assert metrics.false_sources(image, sky, psf, variance, 3) == 1
    assert metrics.false_sources(image, sky, psf, variance, 5) == 0
    assert metrics.false_sources(image, np.ones_like(sky), psf, variance, 5) == 1


def test_flux_and_position_of_a_point_are_measured() -> None:
    truth, found = np.full((1, 41, 41), 7.0), np.full((1, 41, 41), 3.0)
    truth[0, 20, 20] += 1000
    found[0, 20, 20:22] += 450
    figures = metrics.point_figures(found, truth, {"y": [20.0], "x": [20.0]})
    assert figures["moon_flux"] == pytest.approx(0.9, abs=0.02)
    assert figures["moon_offset"] == pytest.approx(0.5, abs=0.05)


def test_pulls_of_errors_that_are_right_have_unit_scatter() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2, 200, 200))
    truth, where = np.ones((2, 200, 200)), np.zeros((2, 200, 200), bool)
    where[:, 8:-8, 8:-8] = True
    scatter = metrics.smoothed(noise)[where].std()
    figures = metrics.pulls(truth + noise, np.full(truth.shape, scatter), truth, where)
    assert figures["pull_std"] == pytest.approx(1, abs=0.02)
    assert figures["pull_2sigma"] == pytest.approx(0.954, abs=0.01)
    twice = metrics.pulls(truth + noise, np.full(truth.shape, 2 * scatter), truth, where)
    assert twice["pull_std"] == pytest.approx(0.5, abs=0.02)


def test_pulls_are_measured_in_each_region() -> None:
    disc = {"y": 30.0, "x": 30.0, "radius": 12.0, "flattening": 0.0, "pole": 0.0}
    facts = {"disc": disc, "points": {"y": [30.0], "x": [44.0]}}
    regions = metrics.regions((61, 61), facts)
    assert [name for name, where in regions.items() if where[30, 44]] == ["points"]
    assert [name for name, where in regions.items() if where[30, 18]] == ["limb"]
    assert sum(where.astype(int) for where in regions.values()).max() == 1
    sizes = {"disc": 1.0, "limb": 2.0, "beside": 4.0, "points": 8.0}
    error = np.full((1, 61, 61), np.nan)
    for name, size in sizes.items():
        error[0, regions[name]] = 1 / size
    truth = np.zeros((1, 61, 61))
    pulls = metrics.pulls_by_region(truth + 1, error, truth, facts)
    assert pulls == pytest.approx({f"pull_{name}": size for name, size in sizes.items()}, rel=1e-6)
    assert metrics.pulls_by_region(truth, error, truth, {}) == {}


def test_chi2_of_the_truth_is_one() -> None:
    made = scenes.planet_small(size=0.6)
    good = np.isfinite(made.data) & (made.artefacts == 0) & made.object
    chi2 = metrics.chi2(made.truth, made.data, made.variance, made.psf, good)
    assert chi2 == pytest.approx(1.0, abs=0.12)


@pytest.mark.skipif(not (SHARED / "reference" / "score.py").exists(), reason="the recorded scene is not here")
def test_the_error_is_that_of_the_independent_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    truth = np.stack([minnaert_disc(18.0, k) for k in (0.6, 0.8)])
    result = truth + rng.normal(0, 60, truth.shape)
    cards = {"CRVAL3": 7000.0, "CD3_3": 10.0, "CRPIX3": 1.0, "CUNIT3": "Angstrom"}
    files = {
        "obs": ("DATA", "STAT"),
        "truth": ("DATA",),
        "blurred": ("DATA",),
        "artefacts": ("ARTEFACTS", "KIND"),
    }
    images = {"DATA": truth, "STAT": np.ones_like(truth), "ARTEFACTS": 0 * truth, "KIND": 0 * truth}
    for file, names in files.items():
        hdus = [fits.ImageHDU(images[n], fits.Header(cards), name=n) for n in names]
        first = (
            fits.PrimaryHDU(images[names[0]], hdus[0].header) if file == "artefacts" else fits.PrimaryHDU()
        )
        fits.HDUList([first, *hdus]).writeto(tmp_path / f"{file}.fits")
    fits.PrimaryHDU(result, fits.Header(cards)).writeto(tmp_path / "made.fits")
    options = [
        "--scene",
        str(tmp_path),
        "--fwhm",
        "0",
        "--deconv",
        f"x={tmp_path}/made.fits",
        "--json",
        str(tmp_path / "j"),
    ]
    monkeypatch.setattr(sys, "argv", ["score.py", *options])
    runpy.run_path(str(SHARED / "reference" / "score.py"))["main"]()
    theirs = json.loads((tmp_path / "j").read_text())["deconv"]["x"]
    mean = truth.mean(axis=0)
    disc = mean > 0.05 * np.median(mean[mean > 0.02 * mean.max()])
    where = np.broadcast_to(disc, truth.shape)
    for sigma in (0.5, 1.0, 2.0):
        assert metrics.relative_error(result, truth, where, sigma) == pytest.approx(
            theirs[f"l2_both*G{sigma}"], rel=1e-6
        )


@pytest.mark.parametrize("name", scenes.SCENES)
def test_scenes_follow_from_their_seeds(name: str) -> None:
    one, same, other = (scenes.SCENES[name](size=0.35, **more) for more in ({}, {}, {"seed": 5}))
    for field in ("data", "stat", "star", "truth", "psf", "artefacts"):
        np.testing.assert_array_equal(getattr(one, field), getattr(same, field))
    assert not np.array_equal(one.data, other.data, equal_nan=True)
    assert one.name == name
    assert one.object.any()
    assert one.truth.shape == one.data.shape == one.stat.shape
    np.testing.assert_allclose(one.psf.sum(axis=(1, 2)), 1, rtol=1e-5)


def test_scenes_have_the_noise_that_they_claim() -> None:
    for name, factor in (("correlated_noise", 1.0), ("wrong_stat", 0.25)):
        made = scenes.SCENES[name](size=0.6)
        clean = np.isfinite(made.data) & (made.artefacts == 0)
        z = (made.data - made.blurred)[clean] / np.sqrt(made.variance[clean])
        assert z.std() == pytest.approx(1, abs=0.03), name
        np.testing.assert_allclose(made.stat[clean], factor * made.variance[clean])


def test_the_psf_of_the_mismatch_is_broader_by_a_twentieth() -> None:
    broad, exact = (make(size=0.6).psf for make in (scenes.psf_mismatch, scenes.planet_medium))
    assert broad.shape == exact.shape
    ratio = exact.max(axis=(1, 2)) / broad.max(axis=(1, 2))
    np.testing.assert_allclose(ratio, 1.05**2, atol=0.02)


def test_a_scene_survives_its_files(tmp_path: Path) -> None:
    made = scenes.galaxy_lines(size=0.35)
    made.write(tmp_path)
    back = scene_files.read(tmp_path)
    np.testing.assert_allclose(back.data, made.data, rtol=1e-6)
    np.testing.assert_allclose(back.wavelengths, made.wavelengths)
    np.testing.assert_array_equal(back.object, made.object)
    assert back.facts == made.facts
    assert (back.name, back.title, back.config) == (made.name, made.title, made.config)


def test_every_method_has_a_docstring_and_one_function() -> None:
    for name in method.names():
        module = method.load(name)
        assert method.title(name) != name
        assert hasattr(module, "deconvolve") != hasattr(module, "deconvolve_scene"), name


def prepared(folder: Path) -> Any:
    """Write a small scene, and inputs that need no preparation."""
    made = scenes.planet_small(size=0.35)
    made.write(folder / "scenes" / made.name)
    inputs = {"DATA": np.nan_to_num(made.data), "SIGMA": np.sqrt(made.variance), "PSF": made.psf}
    (folder / "prepared" / made.name).mkdir(parents=True)
    hdus = [fits.ImageHDU(a.astype(np.float32), name=n) for n, a in inputs.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(folder / "prepared" / made.name / "inputs.fits")
    return made


def run_worker(folder: Path, module: Any, scene: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(method, "load", lambda name: module)
    monkeypatch.setattr(sys, "argv", ["worker", "mine", str(folder), scene])
    worker.main()
    report: dict[str, Any] = json.loads((folder / "results" / scene / "mine.json").read_text())
    return report


def test_the_best_setting_is_chosen_against_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(tmp_path)
    mine = SimpleNamespace(
        SETTINGS=[{"factor": f} for f in (0.5, 1.0, 3.0)],
        deconvolve=lambda plane, factor: (
            factor * made.truth[[np.array_equal(plane.psf, p.astype(np.float32)) for p in made.psf]][0]
        ),
    )
    known = run_worker(tmp_path, mine, made.name, monkeypatch)
    assert known["setting"] == {"factor": 1.0}
    assert known["planes"] == list(range(len(made.truth)))
    found = score.score(
        made, tmp_path / "prepared" / made.name, tmp_path / "results" / made.name / "mine.fits"
    )
    assert found["figures"]["G1"] < 1e-6
    assert found["figures"]["limb"] == pytest.approx(0, abs=1e-6)
    assert found["figures"]["moon_flux"] == pytest.approx(1, abs=1e-6)
    assert found["figures"]["false3"] == 0
    assert np.isnan(found["figures"]["line_ratio"])


def test_a_method_that_is_not_installed_is_skipped_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(tmp_path)

    def deconvolve(plane: Any) -> Any:
        return importlib.import_module("a_package_that_does_not_exist")

    known = run_worker(tmp_path, SimpleNamespace(deconvolve=deconvolve), made.name, monkeypatch)
    assert "not installed" in known["skipped"]
    assert "a_package_that_does_not_exist" in known["skipped"]
    scored = {made.name: {"title": made.title, "methods": {"not_deconvolved": known}}}
    report.save(scored, tmp_path / "scores.json")
    assert "not installed" in report.markdown(json.loads((tmp_path / "scores.json").read_text()))


def test_a_method_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(tmp_path)

    def deconvolve(plane: Any) -> Any:
        raise RuntimeError("no luck")

    known = run_worker(tmp_path, SimpleNamespace(deconvolve=deconvolve), made.name, monkeypatch)
    assert known["skipped"] == "failed: RuntimeError: no luck"


def test_tables_have_the_best_in_bold(tmp_path: Path) -> None:
    rows = {
        "skimage_wiener": {"G1": 0.3, "limb": -0.2, "moon_flux": 0.4},
        "lucidcube_map": {"G1": 0.1, "limb": np.nan, "moon_flux": 1.1},
    }
    methods = {m: {"figures": f, "planes": [0, 1]} for m, f in rows.items()}
    report.save({"planet_small": {"title": "A planet", "methods": methods}}, tmp_path / "s.json")
    text = report.markdown(json.loads((tmp_path / "s.json").read_text()))
    assert "| lucidcube map | **0.100** |" in text
    assert "| skimage wiener | **-0.20** |" in text
    assert "| lucidcube map | **1.10** |" in text
    (tmp_path / "page.md").write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.insert(text, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "old" not in page


@pytest.mark.parametrize(
    ("module", "file", "begin", "end"),
    [
        (report, "scores", report.BEGIN, report.END),
        (sensitivity, "sensitivity", sensitivity.BEGIN, sensitivity.END),
    ],
)
def test_the_page_shows_the_frozen_scores(module: ModuleType, file: str, begin: str, end: str) -> None:
    known = json.loads((ROOT / "benchmarks" / "quality" / f"{file}.json").read_text())
    page = (ROOT / "docs" / "quality.md").read_text()
    assert page.partition(begin)[2].partition(end)[0].strip() == module.markdown(known).strip()


def test_random_settings_lie_within_a_decade_of_the_default() -> None:
    default, *drawn = sensitivity.settings(200)
    for name in sensitivity.VARIED:
        ratio = np.array([s[name] for s in drawn]) / default[name]
        assert ratio.min() > 10**-0.52
        assert ratio.max() < 10**0.52
        assert np.median(np.log10(ratio)) == pytest.approx(0, abs=0.15)
    found = {"a": [0.2, 0.1, 0.4], "b": [0.2, 0.19, 0.5]}
    known = sensitivity.summary([{"mu": 1.0}, {"mu": 2.0}, {"mu": 3.0}], found)
    assert known["scenes"]["a"]["setting"] == {"mu": 2.0}
    assert known["overall"]["setting"] == {"mu": 2.0}
    assert known["overall"]["error_over_default"]["a"] == pytest.approx(0.5)


@pytest.mark.slow
def test_the_command_runs_from_end_to_end(tmp_path: Path) -> None:
    methods = ["not_deconvolved", "lucidcube_map", "reference_program"]
    command = [sys.executable, "-m", "benchmarks.quality", "--fast", "--out", str(tmp_path)]
    command += ["--scenes", "planet_small", "--methods", *methods]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = json.loads((tmp_path / "scores.json").read_text())["scenes"]["planet_small"]["methods"]
    assert known["lucidcube_map"]["figures"]["G1"] < 0.06, "0.034 when this was written"
    assert known["lucidcube_map"]["figures"]["G1"] < known["not_deconvolved"]["figures"]["G1"] / 5
    assert "| lucidcube map |" in done.stdout
    assert (tmp_path / "pictures" / "planet_small.png").stat().st_size < 300_000
