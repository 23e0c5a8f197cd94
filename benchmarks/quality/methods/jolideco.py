"""Jolideco, its patch prior with Poisson noise that fits the variance: the best weight of the prior.

Its library of mixtures is named by JOLIDECO_GMM_LIBRARY; `benchmarks/quality/jolideco_library.py` trains one,
which is used here because that of its authors is not on PyPI.
"""

import os

import numpy as np

SETTINGS = [{"beta": b} for b in (0.1, 0.5)]
PLANES = 1


def deconvolve(plane, beta=0.3, epochs=600):
    from benchmarks.quality.method import NotInstalled

    if not os.environ.get("JOLIDECO_GMM_LIBRARY"):
        raise NotInstalled("set JOLIDECO_GMM_LIBRARY to its library of Gaussian mixtures")
    import torch
    from jolideco.core import MAPDeconvolver
    from jolideco.models import FluxComponents, SpatialFluxComponent
    from jolideco.priors import GMMPatchPrior
    from jolideco.utils.norms import ASinhImageNorm

    torch.set_num_threads(1)
    torch.manual_seed(1)
    known = np.isfinite(plane.sigma)
    # Counts whose variance is their mean: variance = dark + gain * light.
    gain, dark = np.polyfit(plane.data[known], plane.sigma[known] ** 2, 1)
    gain = max(gain, 1e-3 * float(np.nanmedian(plane.sigma)))
    background = max(dark, 1e-6) / gain**2
    counts = np.maximum(plane.data / gain + background, 1e-3)
    shape = plane.data.shape
    arrays = {
        "counts": counts,
        "psf": plane.psf,
        "exposure": np.ones(shape),
        "background": np.full(shape, background),
    }
    data = {"scene": {key: array.astype(np.float32) for key, array in arrays.items()}}
    start = np.maximum(plane.data / gain, 0.1 * np.sqrt(background)).astype(np.float32)
    top = float(start.max())
    prior = GMMPatchPrior(
        norm=ASinhImageNorm(alpha=top / 10, beta=top, frozen=True), stride=4, cycle_spin=True
    )
    parts = FluxComponents()
    parts["flux"] = SpatialFluxComponent.from_numpy(flux=start, prior=prior)
    solver = MAPDeconvolver(n_epochs=epochs, learning_rate=0.1, beta=beta, display_progress=False)
    return solver.run(datasets=data, components=parts).flux_total * gain
