"""DeepInverse, total variation (FISTA): the best weight.

Its trained denoisers are not used, because their weights have to be downloaded.
"""

import numpy as np

SETTINGS = [{"weight": w} for w in (0.01, 0.03, 0.3)]
PLANES = 2


def deconvolve(plane, weight=0.1, iterations=100):
    import deepinv
    import torch

    torch.set_num_threads(1)
    unit, half = float(np.nanmedian(plane.sigma)), plane.psf.shape[0] // 2
    wide = np.pad(plane.data / unit, half).astype(np.float32)
    data = torch.from_numpy(wide)[None, None]
    psf = torch.from_numpy(plane.psf.astype(np.float32))[None, None]
    physics = deepinv.physics.BlurFFT(img_size=(1, *wide.shape), filter=psf)
    solver = deepinv.optim.FISTA(
        data_fidelity=deepinv.optim.L2(),
        prior=deepinv.optim.TVPrior(n_it_max=20),
        lambda_reg=weight,
        stepsize=1.0,
        max_iter=iterations,
    )
    with torch.no_grad():
        made = solver(data, physics)
    return np.maximum(made[0, 0].numpy()[half:-half, half:-half], 0) * unit
