"""How far the default of `deconvolve` is from the best of random settings, on each scene.

    python -m benchmarks.quality.sensitivity --out SCRATCH     # after benchmarks.quality, in the same folder

The settings are drawn log-uniformly from a decade around the defaults of `map`, the same for all scenes,
which tells whether one of them is better everywhere.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lucidcube.stages.deconvolution_methods import MapDeconvolution
from lucidcube.stages.psf_planes import usable_psf

from . import report
from .__main__ import PAGE, ROOT
from .metrics import relative_error
from .scene import images
from .worker import spread

VARIED = ("mu", "point_penalty", "delta", "robust", "n_iter")
ALLOWED = 1.1
"""Error of the default over the best that counts as good."""
BEGIN, END = "<!-- sensitivity: begin -->", "<!-- sensitivity: end -->"
SAVED = ROOT / "benchmarks" / "quality" / "sensitivity.json"


def settings(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Return the default and `count` random settings."""
    generator = np.random.default_rng(seed)
    default = MapDeconvolution().model_dump(include=set(VARIED))
    factors = 10 ** generator.uniform(-0.5, 0.5, (count, len(VARIED)))
    drawn = [{name: default[name] * float(f) for name, f in zip(VARIED, row, strict=True)} for row in factors]
    return [default, *({**each, "n_iter": round(each["n_iter"])} for each in drawn)]


def errors(out: Path, tried: list[dict[str, Any]], planes: int, scene: str) -> list[float]:
    """Return the error of each setting at a resolution of one pixel, on a few planes of a scene."""
    made = images(out / "prepared" / scene / "prepared.fits")
    truth = images(out / "scenes" / scene / "truth.fits")
    chosen = spread(len(made["DATA"]), planes)
    where = (truth["OBJECT"] > 0) & np.isfinite(truth["VARIANCE"][chosen])

    def error(setting: dict[str, Any]) -> float:
        stage = MapDeconvolution(**setting)
        results = [
            stage.deconvolve_plane(
                made["DATA"][i],
                usable_psf(made["PSF"][i]),
                variance=made["STAT"][i],
                filled=made["FILLED"][i],
            ).components
            for i in chosen
        ]
        return relative_error(np.stack(results), truth["TRUTH"][chosen], where, 1.0)

    return [error(s) for s in tried]


def summary(tried: list[dict[str, Any]], found: dict[str, list[float]]) -> dict[str, Any]:
    """Return the default against the best of each scene, and the setting that is best over all scenes."""
    rows = {
        scene: {
            "default": e[0],
            "best": min(e),
            "setting": tried[int(np.argmin(e))],
            "median": float(np.median(e)),
        }
        for scene, e in found.items()
    }
    ratio = np.log([np.array(e) / e[0] for e in found.values()])
    overall = int(ratio.mean(axis=0).argmin())
    gains = {scene: float(np.exp(r[overall])) for scene, r in zip(found, ratio, strict=True)}
    return {"scenes": rows, "overall": {"setting": tried[overall], "error_over_default": gains}}


def markdown(known: dict[str, Any]) -> str:
    """Return the summary as Markdown."""
    lines = ["| scene | default | best | default / best | setting of the best |", "|---|---|---|---|---|"]
    for scene, row in known["scenes"].items():
        ratio = row["default"] / row["best"]
        shown = f"{ratio:.2f}" if ratio <= ALLOWED else f"**{ratio:.2f}**"
        cells = (
            scene.replace("_", " "),
            f"{row['default']:.4f}",
            f"{row['best']:.4f}",
            shown,
            _text(row["setting"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    gains = known["overall"]["error_over_default"]
    mean = float(np.exp(np.mean(np.log(list(gains.values())))))
    worst = max(gains, key=gains.__getitem__)
    setting = _text(known["overall"]["setting"])
    text = f"The setting that is best on average over the scenes is {setting}. Its error is {mean:.2f} times"
    text += (
        f" that of the default on average, and at worst {gains[worst]:.2f} times ({worst.replace('_', ' ')})."
    )
    return "\n".join([*lines, "", text])


def _text(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in setting.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.sensitivity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of a run of benchmarks.quality")
    parser.add_argument("--count", type=int, default=200, help="number of random settings")
    parser.add_argument("--planes", type=int, default=2, help="number of planes per scene")
    parser.add_argument("--jobs", type=int, default=2, help="number of scenes at a time")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/quality.md")
    given = parser.parse_args()
    scenes = sorted(path.parent.name for path in (given.out / "prepared").glob("*/inputs.fits"))
    tried = settings(given.count)
    with ProcessPoolExecutor(given.jobs) as pool:
        found = dict(
            zip(scenes, pool.map(partial(errors, given.out, tried, given.planes), scenes), strict=True)
        )
    known = summary(tried, found)
    (given.out / "sensitivity_all.json").write_text(json.dumps({"tried": tried, "errors": found}))
    print(markdown(known))
    if given.docs:
        SAVED.write_text(json.dumps(known, indent=1) + "\n")
        report.insert(markdown(known), PAGE, BEGIN, END)


if __name__ == "__main__":
    main()
