"""Make the picture of the README: a simulated planet before and after, beside the truth."""

import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lucidcube.config import from_plain
from lucidcube.pipeline import run
from lucidcube.simulate import Scene, write_scene

PICTURE = Path(__file__).parent / "images" / "before-after.png"


def main() -> None:
    scene = Scene(shape=(41, 161, 161), seed=3)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_scene(scene, Path(folder), truth=True)
        config = from_plain(
            {
                "target": {"input": str(paths.target), "stages": ["rebin", "artefacts", "mask", "interpolate"]},
                "star": {"input": str(paths.star), "stages": ["rebin", "normalise_psf", "fit_psf"]},
                "deconvolve": {"method": "clean_modified"},
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
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    top = np.percentile(truth, 99.7)
    titles = ("observed (one channel)", "lucidcube", "truth, convolved with nothing")
    for axes, image, title in zip(figure.subplots(1, 3), (before, sharp, truth), titles, strict=True):
        axes.set_facecolor("0.35")
        axes.imshow(image, origin="lower", cmap="inferno", vmin=0, vmax=top, interpolation="nearest")
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(f"simulated ice giant at {wavelength / 10:.1f} nm")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
