"""Make the figure of the README: a simulated planet before and after the pipeline, and the truth."""

import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lucidcube.config.load import from_plain
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene

PICTURE = Path(__file__).parent / "images" / "before-after.png"
REGIONS = """image
circle(75,69,12)   # the ghost, as it would be drawn in DS9
box(77,87,32,3,0)  # the stripe
"""


def main() -> None:
    scene = Scene(shape=(41, 161, 161), seed=3)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_scene(scene, Path(folder), truth=True)
        regions = Path(folder) / "ghost.reg"
        regions.write_text(REGIONS)
        target: list[str | dict[str, object]] = [
            "rebin",
            {"artefacts": {"start": -0.05, "stop": -0.5}},
            {"mask": {"cut": [[0, 2.0]], "max_dilation": 2, "const_regions": [str(regions)]}},
            "interpolate",
        ]
        config = from_plain(
            {
                "target": {"input": str(paths.target), "stages": target},
                "star": {"input": str(paths.star), "stages": ["rebin", "normalise_psf", "fit_psf"]},
                "deconvolve": {"method": "lucy_richardson", "strength": 0.5, "n_iter": 150},
                "output": {"path": f"{folder}/deconvolved.fits"},
            }
        )
        product = run(config).path
        plane = 5
        with fits.open(product) as made, fits.open(paths.target) as raw:
            sharp = made["DECONVOLVED"].data[plane]
            wavelength = made[0].header["CRVAL3"] + plane * made[0].header["CD3_3"]
            channel = round((wavelength - raw["DATA"].header["CRVAL3"]) / raw["DATA"].header["CD3_3"])
            before = raw["DATA"].data[channel].astype(float)
        truth = scene.plane(channel).truth
    draw(before, sharp, truth, wavelength)


def draw(before: np.ndarray, sharp: np.ndarray, truth: np.ndarray, wavelength: float) -> None:
    figure = Figure(figsize=(12, 4.7), layout="constrained")
    FigureCanvasAgg(figure)
    top = np.percentile(truth, 99.7)
    titles = ("one channel as observed", "rebinned, interpolated and deconvolved", "the truth, without blur")
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
