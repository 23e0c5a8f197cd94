"""Make the pictures of the pages about the stages, from a simulated planet: images/stages-NAME.png."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lucidcube import Artefacts, Deconvolve, FitPSF, Interpolate, Mask, Noise, Rebin, open_cube
from lucidcube.simulate import Scene, write_scene

IMAGES = Path(__file__).parent / "images"
PLANE = 14
GREY = "0.35"


def main() -> None:
    scene = Scene(shape=(64, 81, 81), wavelength_step=0.5e-9, seed=12, gain=4.0, read_noise=25.0)
    with TemporaryDirectory() as folder:
        files = write_scene(scene, folder)
        target, star = (Noise()(Rebin()(open_cube(f).load())) for f in (files.target, files.star))
    made = FitPSF()(star)
    scored = Artefacts()(target, made)
    marked = Mask()(scored)
    filled = Interpolate()(marked)
    channel = int(np.argmin(np.abs(scene.wavelengths - target["wavelength"].values[PLANE])))
    truth = scene.plane(channel).truth
    top = float(np.percentile(truth, 99.5))

    def light(image: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
        return np.asarray(image, float), {"cmap": "inferno", "vmin": 0, "vmax": top}

    observed = light(plane(target, "data"))
    score = plane(scored, "badness"), {"cmap": "viridis", "vmin": 0, "vmax": 15}
    mask = plane(marked, "mask").astype(float), {"cmap": "viridis", "vmin": 0, "vmax": 2}
    draw("artefacts", {"as observed": observed, "artefact score, 0 to 15": score, "mask": mask})
    kinds = plane(filled, "filled").astype(float), {"cmap": "viridis", "vmin": 0, "vmax": 3}
    images = {"as observed": observed, "filled": light(plane(filled, "data")), "kind of filling": kinds}
    draw("interpolate", images)
    sharp = {
        method: light(plane(Deconvolve(method=method)(filled), "data"))
        for method in ("map", "lucy_richardson", "clean_multiscale")
    }
    draw("deconvolve", {"as observed": observed, **sharp, "truth": light(truth)})
    draw_star(plane(star, "data"), plane(made, "data"))


def plane(cube: xr.Dataset, name: str) -> np.ndarray:
    """Return one plane of a variable."""
    return np.asarray(cube[name][PLANE])


def draw_star(star: np.ndarray, psf: np.ndarray) -> None:
    """Draw a star and the PSF made from it, as fractions of their peaks."""
    y, x = np.unravel_index(np.nanargmax(star), star.shape)
    half, middle = 15, psf.shape[0] // 2
    seen = star[y - half : y + half + 1, x - half : x + half + 1] - np.nanmedian(star)
    model = psf[middle - half : middle + half + 1, middle - half : middle + half + 1]
    peak = {"cmap": "inferno", "vmin": 0, "vmax": 0.2}
    images = {"star, to 0.2 of its peak": (seen / np.nanmax(seen), peak), "PSF": (model / model.max(), peak)}
    draw("fit_psf", images)


def draw(name: str, images: Mapping[str, tuple[np.ndarray, dict[str, object]]]) -> None:
    """Write images side by side."""
    figure = Figure(figsize=(2.6 * len(images), 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(images))
    for axes, (title, (image, options)) in zip(panels, images.items(), strict=True):
        axes.set_facecolor(GREY)
        axes.imshow(image, origin="lower", interpolation="nearest", **options)
        axes.set(title=title, xticks=[], yticks=[])
    figure.savefig(IMAGES / f"stages-{name}.png", dpi=90)


if __name__ == "__main__":
    main()
