"""Pyxu, total variation and positivity (PD3O): the best weight of the total variation."""

import numpy as np

SETTINGS = [{"weight": w} for w in (0.01, 0.03, 0.3)]
PLANES = 1


def deconvolve(plane, weight=0.1, iterations=600):
    import pyxu.operator as operators
    from pyxu.opt.solver import PD3O
    from pyxu.opt.stop import MaxIter

    unit = float(np.nanmedian(plane.sigma))
    data, shape = (plane.data / unit).astype(float), plane.data.shape
    trust = np.isfinite(plane.sigma).astype(float)
    half = plane.psf.shape[0] // 2
    blur = operators.FFTConvolve(shape, plane.psf.astype(float), center=(half, half), mode="constant")
    blur.lipschitz = 1.0
    misfit = 0.5 * operators.SquaredL2Norm(shape).argshift(-trust * data)
    fidelity = misfit * (operators.DiagonalOp(trust) * blur)
    fidelity.diff_lipschitz = 1.0
    gradient = operators.Gradient(shape)
    norm = weight * operators.L21Norm(gradient.codim_shape, l2_axis=(0,))
    solver = PD3O(
        f=fidelity,
        g=operators.PositiveOrthant(shape),
        h=norm,
        K=gradient,
        verbosity=10_000,
        show_progress=False,
    )
    solver.fit(x0=np.maximum(data, 0), stop_crit=MaxIter(iterations))
    return solver.solution() * unit
