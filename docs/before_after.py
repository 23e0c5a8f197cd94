"""Make the figure of the README: the example before and after `configs/quickstart.yaml`, and the truth.

It plots the product of ``make quickstart``, which is computed if it is not there.
"""

import runpy
from pathlib import Path

import numpy as np
from astropy.io import fits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lucidcube.config.load import load
from lucidcube.runner.pipeline import run

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "before-after.png"
PLANE = 14


def main() -> None:
    product = run(load(ROOT / "configs" / "quickstart.yaml")).path
    scene = runpy.run_path(str(ROOT / "example_data" / "make_example.py"))["scene"]()
    with fits.open(product) as made:
        sharp, wavelength = made[0].data[PLANE], made[0].header["CRVAL3"] + PLANE * made[0].header["CD3_3"]
    channel = int(np.argmin(np.abs(scene.wavelengths * 1e10 - wavelength)))
    seen = scene.plane(channel)
    draw(seen.observed, sharp, seen.truth, wavelength)


def draw(before: np.ndarray, sharp: np.ndarray, truth: np.ndarray, wavelength: float) -> None:
    figure = Figure(figsize=(12, 4.7), layout="constrained")
    FigureCanvasAgg(figure)
    top = np.percentile(truth, 99.5)
    titles = ("one channel as observed", "the product of the quick start", "the truth, without blur")
    for axes, image, title in zip(figure.subplots(1, 3), (before, sharp, truth), titles, strict=True):
        axes.set_facecolor("0.35")
        axes.imshow(image, origin="lower", cmap="inferno", vmin=0, vmax=top, interpolation="nearest")
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.supxlabel(f"simulated ice giant at {wavelength / 10:.1f} nm; same scale in all panels")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
