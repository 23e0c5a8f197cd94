"""STARRED, its background regularised by starlets, without point sources: the best of two strengths.

Its penalty for negative light is replaced by clipping the result, because the minimisation stops early with
it.
"""

import contextlib
import io

import numpy as np

SETTINGS = [{"scales": s, "high": h} for s, h in ((0.3, 0.3), (2, 2))]
PLANES = 1


def deconvolve(plane, scales=1.0, high=1.0, iterations=200):
    import jax

    jax.config.update("jax_enable_x64", True)
    from starred.deconvolution.deconvolution import setup_model
    from starred.deconvolution.loss import Loss
    from starred.deconvolution.parameters import ParametersDeconv
    from starred.optim.optimization import Optimizer
    from starred.utils.noise_utils import propagate_noise

    known = np.isfinite(plane.sigma)
    sigma = np.where(known, plane.sigma, 1e3 * np.nanmedian(plane.sigma))
    unit = float(np.nanmedian(plane.sigma))
    sigma = sigma / unit
    data, variance = plane.data[None].astype(float) / unit, sigma[None].astype(float) ** 2
    model, start, upper, lower, fixed = setup_model(
        data, variance, plane.psf[None].astype(float), np.array([]), np.array([]), 1, initial_a=np.array([])
    )
    fixed["kwargs_background"]["mean"] = np.zeros(1)
    start["kwargs_background"]["h"] = np.maximum(data[0], 0).ravel()
    with contextlib.redirect_stdout(io.StringIO()):
        noise = propagate_noise(
            model,
            sigma[None],
            start,
            wavelet_type_list=["starlet"],
            method="SLIT",
            likelihood_type="chi2",
            verbose=False,
            upsampling_factor=1,
        )[0]
        parameters = ParametersDeconv(start, fixed, kwargs_up=upper, kwargs_down=lower)
        loss = Loss(
            data,
            model,
            parameters,
            variance,
            W=noise,
            regularization_strength_scales=scales,
            regularization_strength_hf=high,
        )
        Optimizer(loss, parameters, method="l-bfgs-b").minimize(maxiter=iterations)
    image = np.asarray(model.getDeconvolved(parameters.best_fit_values(as_kwargs=True), 0)[1])
    return unit * np.maximum(image, 0)
