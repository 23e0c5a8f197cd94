"""Compare the speed of lucidcube with that of other programs on the same planes.

The reference program (aopp_deconv_tool 0.1.28, numpy 1.26.4, Python 3.12) runs in an environment of its own,
whose Python is named by ``$REFERENCE_PY``; scikit-image and RedLionfish run in this process if they are
installed. Both sides use one thread and are measured alternately, so that other load affects both equally.

    REFERENCE_PY=ref/bin/python python benchmarks/compare.py --work /somewhere        # kernels, peers, limits
    REFERENCE_PY=ref/bin/python python benchmarks/compare.py --work /somewhere whole  # the whole run

A ratio is the CPU time of the peer divided by ours: the median and the range over the rounds. The start-up
time of the reference's commands, which is measured in each round, is subtracted. For the whole run it is the
ratio of wall times, including start-up.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from astropy.io import fits
from threadpoolctl import threadpool_limits

from lucidcube.kernels.deconvolution.clean import clean_modified
from lucidcube.kernels.deconvolution.common import edge_margin
from lucidcube.kernels.deconvolution.lucy_richardson import lucy_richardson
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.mask import bad_pixel_mask
from lucidcube.kernels.psf.fit import fit_radial_psf
from lucidcube.kernels.psf.models import MODELS
from lucidcube.kernels.psf.normalise import normalise_psf
from lucidcube.kernels.ssa.artefact_score import badness
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages.deconvolve import CleanModified, LucyRichardson
from lucidcube.stages.normalise_psf import NormalisePSF

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
WAVELENGTH = 720e-9
SSA: Any = {"window": 10, "start": -0.25, "stop": -0.75, "region": "class"}
CLEAN, LUCY = (
    {name: field.default for name, field in model.model_fields.items() if name != "method"}
    for model in (CleanModified, LucyRichardson)
)
MIN_PLANES = 8  # the reference cannot rebin an axis that is shorter than its response
PLANE = "(1,2)"
CONFIG = """\
target:
  input: {folder}/obs.fits{{DATA}}
  stages: [rebin, artefacts, mask: {{cut: [[0, 3.0]]}}, interpolate]
star:
  input: {folder}/star.fits{{DATA}}
  stages: [rebin, normalise_psf, fit_psf: {{model: radial}}]
deconvolve: {{method: clean_modified, threshold: 0.3}}
output: {{path: {out}/deconvolved.fits}}
checkpoints: {{dir: {out}/work, after: [rebin, artefacts, interpolate, fit_psf, deconvolve]}}
profile: laptop
"""


@dataclass
class Comparison:
    """The times of a peer and of lucidcube in each round, in seconds.

    `goal` is the smallest ratio of the peer's time to ours; with `at_most` it is the largest ratio of our
    time to that of the peer, which is then the time that the arithmetic needs.
    """

    name: str
    goal: float
    at_most: bool = False
    peer: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def add(self, peer: float, ours: float) -> None:
        """Record one round."""
        self.peer.append(peer)
        self.ours.append(ours)

    def line(self) -> str:
        """Return one row of a Markdown table."""
        pairs = zip(self.peer, self.ours, strict=True)
        ratios = [b / a if self.at_most else a / b for a, b in pairs]
        middle = statistics.median(ratios)
        met = middle <= self.goal if self.at_most else middle >= self.goal
        goal = f"{'<=' if self.at_most else '>='} {self.goal:g}{'' if met else ' (missed)'}"
        peer, ours = (1e3 * statistics.median(side) for side in (self.peer, self.ours))
        spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
        return f"| {self.name} | {peer:.4g} | {ours:.4g} | {middle:.3g} ({spread}) | {goal} |"


HEAD = "| what | peer, ms | lucidcube, ms | ratio (spread) | goal |\n|---|---|---|---|---|"


def cpu_of(function: Callable[[], object], shortest: float = 0.05) -> float:
    """Return the CPU seconds of a call, averaged over as many calls as fit into `shortest` seconds."""
    calls, start = 0, time.process_time()
    while (spent := time.process_time() - start) < shortest or calls == 0:
        function()
        calls += 1
    return spent / calls


class Reference:
    """The commands of the reference program, for files with absolute paths in one folder."""

    def __init__(self, python: str, folder: Path) -> None:
        self._python, self._folder = python, folder

    def run(self, module: str, *arguments: str, blas: str = "1") -> float:
        """Run a command and return its CPU seconds, including those of its children."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [self._python, "-m", f"aopp_deconv_tool.{module}", *arguments],
            cwd=self._folder,
            env={**os.environ, **dict.fromkeys(THREADS, blas), "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
        )
        if done.returncode and "--help" not in arguments:
            sys.exit(f"{module} failed:\n{done.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def file(self, name: str) -> str:
        """Return the argument for a file of the folder, including the axes of the image."""
        return f"{self._folder / name}.fits{PLANE}"

    def chain(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the commands from raw files to the deconvolved cube, with the defaults of the reference."""
        bare = str(self._folder)
        yield "spectral_rebin", [f"{bare}/obs.fits"]
        yield "spectral_rebin", [f"{bare}/star.fits"]
        yield "artefact_detection", [self.file("obs_rebin")]
        yield "create_bad_pixel_mask", [self.file("obs_rebin_artefactmap")]
        yield "interpolate", [self.file("obs_rebin"), self.file("obs_rebin_artefactmap_bpmask")]
        yield "psf_normalise", [self.file("star_rebin")]
        yield "fit_psf_model", [self.file("star_rebin_normalised"), "--model", "radial"]
        sharp = [self.file("obs_rebin_interp"), self.file("star_rebin_normalised_modelled_radial")]
        yield "deconvolve", [*sharp, "--threshold", "0.3", "--n_processes", "2", "-o", f"{bare}/sharp.fits"]


def normalised(star: np.ndarray) -> np.ndarray:
    """Normalise a plane of the star with the defaults of the stage."""
    return normalise_psf(star, None, **NormalisePSF().model_dump()).image


def radial_psf(prepared: np.ndarray) -> np.ndarray:
    """Fit a radial profile to a normalised plane with the defaults of the stage."""
    return fit_radial_psf(prepared, None, parameters=MODELS["radial"].parameters, nbins=50).image


def make_case(folder: Path, planes: int, side: int) -> None:
    """Write raw cubes that are rebinned to `planes` planes, in metres, which both sides can read."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "star.fits").exists():
        return
    scene = Scene(
        shape=(8 * planes - 7, side, side), first_wavelength=WAVELENGTH, wavelength_step=0.125e-9, seed=1
    )
    raw = write_scene(scene, folder / "raw")
    for source, name in ((raw.target, "obs.fits"), (raw.star, "star.fits")):
        with fits.open(source) as cube:
            for hdu in cube[1:]:
                hdu.header["CUNIT3"] = "m"
                hdu.header["CRVAL3"] *= 1e-10
                hdu.header["CD3_3"] *= 1e-10
            cube.writeto(folder / name, overwrite=True)
    shutil.rmtree(folder / "raw")


def planes_of(path: Path) -> list[np.ndarray]:
    """Return the planes of the first image of a FITS file."""
    with fits.open(path) as hdus:
        data = next(hdu.data for hdu in hdus if hdu.data is not None and hdu.data.ndim == 3)
        dtype = data.dtype.newbyteorder("=") if data.dtype.kind in "ui" else np.dtype(np.float32)
        return [np.ascontiguousarray(plane, dtype=dtype) for plane in data]


def keep_planes(path: Path, count: int) -> None:
    """Reduce a cube to its first planes."""
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.data is not None and hdu.data.ndim == 3:
                hdu.data = hdu.data[:count].copy()
        whole = fits.HDUList([hdu.copy() for hdu in hdus])
    whole.writeto(path, overwrite=True)


def compare_reference(
    reference: Reference, folder: Path, planes: int, rounds: int, wanted: list[str]
) -> Iterator[Comparison]:
    """Compare every kernel with the command of the reference, on the products of the reference."""
    for number, (module, arguments) in enumerate(list(reference.chain())[:7]):
        reference.run(module, *arguments)
        if number < 2:
            keep_planes(folder / ("obs_rebin.fits", "star_rebin.fits")[number], planes)
    target, star = planes_of(folder / "obs_rebin.fits"), planes_of(folder / "star_rebin.fits")
    maps = planes_of(folder / "obs_rebin_artefactmap.fits")
    masks = [mask.astype(bool) for mask in planes_of(folder / "obs_rebin_artefactmap_bpmask.fits")]
    filled = planes_of(folder / "obs_rebin_interp.fits")
    prepared = planes_of(folder / "star_rebin_normalised.fits")
    psfs = [radial_psf(normalised(plane)) for plane in star]
    numbers = range(len(target))
    # With one process the reference hangs, because one is always reserved for its messages.
    sharpen = [reference.file("obs_rebin_interp"), reference.file("star_rebin_normalised_modelled_radial")]
    sharpen += ["--n_processes", "2", "-o", str(folder / "one.fits")]
    commands = dict(list(reference.chain())[2:7])

    def over(kernel: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [kernel(number) for number in numbers]

    rows: dict[str, tuple[float, str, list[str], Callable[[], object]]] = {
        "artefacts": (30, "artefact_detection", [], over(lambda i: badness(target[i], **SSA))),
        "mask": (
            10,
            "create_bad_pixel_mask",
            [],
            over(lambda i: bad_pixel_mask(maps[i], 3.0, max_dilation=None)),
        ),
        "interpolate": (
            100,
            "interpolate",
            [],
            over(lambda i: fill_linear(target[i], masks[i] | np.isnan(target[i]))),
        ),
        "normalise_psf": (10, "psf_normalise", [], over(lambda i: normalised(star[i]))),
        "fit_psf radial": (
            20,
            "fit_psf_model",
            [],
            over(lambda i: radial_psf(prepared[i])),
        ),
        "lucy_richardson": (
            15,
            "deconvolve",
            [*sharpen, "--deconv_method", "lucy_richardson"],
            over(lambda i: lucy_richardson(filled[i], psfs[i], filled=masks[i], **LUCY)),
        ),
        "clean 0.3": (
            10,
            "deconvolve",
            [*sharpen, "--threshold", "0.3"],
            over(lambda i: clean_modified(filled[i], psfs[i], filled=masks[i], **CLEAN)),
        ),
        "clean -1": (
            15,
            "deconvolve",
            [*sharpen, "--threshold", "-1"],
            over(lambda i: clean_modified(filled[i], psfs[i], filled=masks[i], **CLEAN | {"threshold": -1})),
        ),
    }
    for name, (goal, module, arguments, ours) in rows.items():
        if wanted and name not in wanted:
            continue
        comparison = Comparison(f"{name} / reference", goal)
        ours()
        for _ in range(rounds):
            start_up = reference.run(module, "--help")
            spent = reference.run(module, *(arguments or commands[module]))
            comparison.add((spent - start_up) / len(numbers), cpu_of(ours) / len(numbers))
        yield comparison


def textbook_peers() -> Mapping[str, tuple[float, Callable[[np.ndarray, np.ndarray, int], Any]]]:
    """Return the Lucy-Richardson iterations of other packages that are installed."""
    peers: dict[str, tuple[float, Callable[[np.ndarray, np.ndarray, int], Any]]] = {}
    if importlib.util.find_spec("skimage"):
        from skimage.restoration import richardson_lucy

        peers["scikit-image"] = (4, lambda d, p, n: richardson_lucy(d, p, num_iter=n, clip=False))
    if importlib.util.find_spec("RedLionfishDeconv"):
        import RedLionfishDeconv

        peers["RedLionfish (CPU)"] = (
            1,
            lambda d, p, n: RedLionfishDeconv.doRLDeconvolutionFromNpArrays(
                d[None], p[None], niter=n, method="cpu", useBlockAlgorithm=False
            ),
        )
    return peers


def compare_textbook(
    plane: np.ndarray, psf: np.ndarray, rounds: int, iterations: int
) -> Iterator[Comparison]:
    """Compare textbook Lucy-Richardson for the same plane, PSF and number of iterations."""
    positive = np.clip(np.nan_to_num(plane), 1e-3 * np.nanmax(plane), None).astype(np.float32)
    settings = LUCY | {"strength": 1, "nudge_factor": 0, "pad_observation": False, "n_iter": iterations}
    for name, (goal, peer) in textbook_peers().items():
        comparison = Comparison(f"lucy_richardson, {iterations} iterations / {name}", goal)
        lucy_richardson(positive, psf, **settings)
        for _ in range(rounds):
            theirs = cpu_of(lambda peer=peer: peer(positive, psf, iterations))
            ours = cpu_of(lambda: lucy_richardson(positive, psf, **settings))
            comparison.add(theirs, ours)
        yield comparison


def compare_limit(plane: np.ndarray, psf: np.ndarray, rounds: int) -> Iterator[Comparison]:
    """Compare an iteration with the transforms that it needs, at the smallest size without aliasing."""
    margin = edge_margin(psf, plane.shape)
    shape = plane.shape[0] + 2 * margin[0], plane.shape[1] + 2 * margin[1]
    convolver = Convolver(psf, shape)
    sides = [n + reach for n, reach in zip(shape, convolver.reach, strict=True)]
    # A PSF of one pixel, on planes that fill the transform: nothing is left out.
    unfiltered = Convolver(np.ones((1, 1)), convolver.size)
    noise = np.random.default_rng(0).normal(size=convolver.size).astype(np.float32)
    whole = unfiltered.pad(noise)

    def own() -> object:
        return unfiltered.convolve_padded(whole)

    fast = scipy.fft.next_fast_len(sides[0], real=True), scipy.fft.next_fast_len(sides[1], real=True)

    def of_scipy() -> object:
        return scipy.fft.irfft2(scipy.fft.rfft2(noise[: fast[0], : fast[1]]), s=fast)

    never = {"min_frac_stat_delta": 0.0, "rms_frac_threshold": 0.0, "fabs_frac_threshold": 0.0}
    endless = CLEAN | never
    methods: dict[str, tuple[int, Callable[[int], object]]] = {
        "clean 0.3, iteration / FFT pair": (
            1,
            lambda n: clean_modified(plane, psf, **endless | {"n_iter": n}),
        ),
        "clean -1, iteration / FFT pair": (
            1,
            lambda n: clean_modified(plane, psf, **endless | {"n_iter": n, "threshold": -1}),
        ),
        "lucy_richardson, iteration / its four FFTs": (
            2,
            lambda n: lucy_richardson(plane, psf, **LUCY | {"n_iter": n}),
        ),
    }
    for name, (pairs, method) in methods.items():
        comparisons = (
            Comparison(f"{name}, ours", 1.3, at_most=True),
            Comparison(f"{name}, scipy's", 1.3, at_most=True),
        )
        method(10)
        for _ in range(rounds):
            spent = (cpu_of(lambda m=method: m(120)) - cpu_of(lambda m=method: m(20))) / 100
            for comparison, pair in zip(comparisons, (own, of_scipy), strict=True):
                comparison.add(pairs * cpu_of(pair), spent)
        yield from comparisons


def compare_whole(reference: Reference, folder: Path, rounds: int) -> Comparison:
    """Compare wall times from raw files to products on all cores, including the start-up of every command.

    The reference takes minutes, during which the speed of the machine may change. Our run is therefore
    repeated before each of its commands, and the mean of these runs is compared with the sum of the commands.
    """
    comparison = Comparison("whole run, wall / reference", 40)
    for number in range(rounds):
        theirs, ours = 0.0, []
        for module, arguments in reference.chain():
            ours.append(run_whole(folder))
            start = time.perf_counter()
            reference.run(module, *arguments, blas="2")
            theirs += time.perf_counter() - start
        comparison.add(theirs, statistics.mean(ours))
        spread = f"{comparison.ours[-1]:.2f} s ({min(ours):.2f} to {max(ours):.2f})"
        print(f"round {number}: {theirs:.1f} s / {spread}", file=sys.stderr, flush=True)
    return comparison


def run_whole(folder: Path) -> float:
    """Return the wall time of our run of the case in a folder, without checkpoints."""
    program = str(Path(sys.executable).with_name("lucidcube"))
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    out, config = folder / "out", folder / "run.yaml"
    shutil.rmtree(out, ignore_errors=True)
    config.write_text(CONFIG.format(folder=folder, out=out))
    start = time.perf_counter()
    subprocess.run(
        [program, "run", str(config), "--quiet"], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def compare(chosen: argparse.Namespace, python: str, folder: Path) -> None:
    """Make the requested comparisons and print their rows."""
    if "reference" in chosen.what:
        few = folder / "few"
        make_case(few, max(chosen.planes, MIN_PLANES), chosen.side)
        reference = Reference(python, few)
        for result in compare_reference(reference, few, chosen.planes, chosen.rounds, chosen.only):
            print(result.line(), flush=True)
    scene = Scene(shape=(2, chosen.side, chosen.side), first_wavelength=WAVELENGTH, seed=1)
    seen = scene.plane(0)
    if "textbook" in chosen.what:
        for result in compare_textbook(seen.blurred, seen.psf, chosen.rounds, 100):
            print(result.line(), flush=True)
    if "limit" in chosen.what:
        for result in compare_limit(seen.blurred, seen.psf, chosen.rounds):
            print(result.line(), flush=True)
    if "whole" in chosen.what:
        make_case(folder / "whole", 12, chosen.side)
        print(compare_whole(Reference(python, folder / "whole"), folder / "whole", chosen.rounds).line())


def main() -> None:
    """Parse the command line, make the comparisons and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="*", default=["reference", "textbook", "limit"], help="reference textbook limit whole"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for scratch files")
    parser.add_argument("--planes", type=int, default=2, help="planes for each stage; the whole run has 12")
    parser.add_argument("--side", type=int, default=341)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="rows of the reference table")
    chosen = parser.parse_args()
    folder = chosen.work.resolve()
    python = os.environ.get("REFERENCE_PY", "")
    if not python and {"reference", "whole"} & set(chosen.what):
        sys.exit(
            "set REFERENCE_PY to the Python of an environment with aopp_deconv_tool==0.1.28 numpy==1.26.4"
        )
    print(HEAD)
    with threadpool_limits(1):
        compare(chosen, python, folder)


if __name__ == "__main__":
    main()
