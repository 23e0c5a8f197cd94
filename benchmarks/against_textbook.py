"""Comparisons with the Lucy-Richardson iterations of other packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lucidcube.kernels.deconvolution.lucy_richardson import lucy_richardson

from .comparison import Comparison, cpu_of
from .scenes import LUCY

Peer = Callable[[np.ndarray, np.ndarray, int], Any]
"""Takes a plane, a PSF and the number of iterations."""


def textbook_peers() -> dict[str, tuple[float, Peer]]:
    """Return the goal and the function of each other package that is installed."""
    peers: dict[str, tuple[float, Peer]] = {}
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
