"""All figures of one result: a row of the table for each scene and method."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import metrics
from .line_metrics import line_figures
from .scene import Array, Scene, images, read

FIGURES = {
    "G0.5": "relative error in the object at a resolution of 0.5 pixels (standard deviation)",
    "G1": "the same at 1 pixel",
    "G2": "the same at 2 pixels",
    "limb": "error of the radius of the limb, pixels",
    "minnaert": "error of Minnaert's k",
    "moon_flux": "flux of moons, stars or the nucleus over the true one, median",
    "moon_offset": "error of their positions, pixels, median",
    "line_ratio": "relative error of the ratio of two emission lines, median",
    "velocity_bias": "error of the velocity, km/s, median",
    "velocity_scatter": "scatter of the velocity, km/s",
    "rotation": "relative error of the amplitude of the rotation",
    "false3": "false sources above 3 sigma in the empty sky, per plane",
    "false5": "false sources above 5 sigma in the empty sky, per plane",
    "chi2": "mean of residual^2 / variance in the object",
    "pull_std": "standard deviation of (result - truth) / error in the object, if the method gives an error",
    "pull_2sigma": "fraction of the object within 2 errors",
    "sky_pull_std": "the standard deviation of (result - truth) / error in the empty sky",
    "sky_pull_2sigma": "fraction of the empty sky within 2 errors",
    "pull_disc": "root mean square of (result - truth) / error in the disc, 2.5 pixels within the limb",
    "pull_limb": "the same within 1.5 pixels of the limb",
    "pull_beside": "the same in the sky 3 to 7 pixels outside the limb",
    "pull_points": "the same within 2 pixels of moons, stars or the nucleus",
    "cpu": "CPU seconds per plane",
}
"""The figures and what they are."""


PREPARATION = {
    "psf_error": "error of the PSF: root of the ratio of sums of squares, mean over planes",
    "clean_marked": "fraction of the clean pixels of the object that are marked as artefacts",
    "missed": "fraction of artefacts in the object above 6 standard deviations that are not marked",
    "cpu": "CPU seconds per plane of all stages before the deconvolution",
}
"""The figures of our stages before the deconvolution."""
STRONG = 6.0


def preparation(scene: Scene, folder: Path) -> dict[str, float]:
    """Return the figures of the prepared files in a folder."""
    made = images(folder / "prepared.fits")
    wrong = np.square(made["PSF"] - scene.psf).sum(axis=(1, 2)) / np.square(scene.psf).sum(axis=(1, 2))
    marked, bad = made["MASK"] > 0, scene.artefacts > 0
    seen = scene.object & np.isfinite(scene.data)
    strong = seen & bad & (np.abs(scene.data - scene.blurred) > STRONG * np.sqrt(scene.variance))
    return {
        "psf_error": float(np.sqrt(wrong).mean()),
        "clean_marked": float(marked[seen & ~bad].mean()),
        "missed": float((~marked)[strong].mean()) if strong.any() else np.nan,
        "cpu": float(json.loads((folder / "cpu.json").read_text())),
    }


def score(scene: Scene, prepared: Path, result: Path) -> dict[str, Any]:
    """Return the figures of a result, NaN where they do not apply, and the report of the worker with them."""
    report = json.loads(result.with_suffix(".json").read_text())
    if "skipped" in report:
        return report
    planes = report["planes"]
    made, given = images(result), images(prepared / "inputs.fits")
    figures = dict.fromkeys(FIGURES, np.nan) | _image(scene, planes, made, given)
    cube, truth, facts = made["RESULT"], scene.truth[planes], scene.facts
    if "disc" in facts:
        figures |= metrics.disc_figures(cube, truth, facts["disc"])
    if "points" in facts:
        figures |= metrics.point_figures(cube, truth, facts["points"])
    if "lines" in facts and len(planes) == len(scene.truth):
        figures |= line_figures(cube, truth, scene.object, facts["lines"])
    return {**report, "figures": figures | {"cpu": report["cpu"]}}


def _image(
    scene: Scene, planes: list[int], made: dict[str, Array], given: dict[str, Array]
) -> dict[str, float]:
    """Return the figures that every scene has."""
    cube, truth, variance = made["RESULT"], scene.truth[planes], scene.variance[planes]
    # Nothing was observed where the variance is NaN, and nothing can be said there.
    where = scene.object & np.isfinite(variance)
    psf, sigma = given["PSF"][planes], given["SIGMA"][planes]
    figures = {f"G{s:g}": metrics.relative_error(cube, truth, where, s) for s in (0.5, 1, 2)}
    figures |= {
        f"false{n}": metrics.false_sources(cube, scene.sky, scene.psf[planes], variance, n) for n in (3, 5)
    }
    good = where & np.isfinite(sigma) & (scene.artefacts[planes] == 0)
    figures["chi2"] = metrics.chi2(cube, given["DATA"][planes], variance, psf, good)
    if "ERROR" in made:
        sky = scene.sky & np.isfinite(variance)
        figures |= metrics.pulls(cube, made["ERROR"], truth, where)
        figures |= {f"sky_{key}": p for key, p in metrics.pulls(cube, made["ERROR"], truth, sky).items()}
        figures |= metrics.pulls_by_region(cube, made["ERROR"], truth, scene.facts)
    return figures


def main() -> None:
    """Score all results of a scene and draw it: ``python -m benchmarks.quality.score OUT SCENE``."""
    from .pictures import draw

    out, name = Path(sys.argv[1]), sys.argv[2]
    scene, results = read(out / "scenes" / name), out / "results" / name
    found = {
        path.stem: score(scene, out / "prepared" / name, path.with_suffix(".fits"))
        for path in sorted(results.glob("*.json"))
    }
    known = {
        "title": scene.title,
        "preparation": preparation(scene, out / "prepared" / name),
        "methods": found,
    }
    (out / "scores").mkdir(exist_ok=True)
    (out / "scores" / f"{name}.json").write_text(json.dumps(known, default=float))
    draw(scene, found, results, out / "pictures" / f"{name}.png")


if __name__ == "__main__":
    main()
