"""The methods of the stage `deconvolve`, with their parameters."""

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from lucidcube.cube import DATA, DECONVOLUTION_LOG, MODEL, POINTS, RESIDUAL, RESTORED
from lucidcube.kernels.deconvolution.clean import clean_modified
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.deconvolution.lucy_richardson import lucy_richardson
from lucidcube.kernels.deconvolution.map import map_deconvolution
from lucidcube.kernels.deconvolution.multiscale_clean import clean_multiscale
from lucidcube.kernels.stacked.clean import clean_planes
from lucidcube.kernels.stacked.lucy_richardson import lucy_richardson_planes
from lucidcube.kernels.stacked.map import map_planes
from lucidcube.stages.base import parameter
from lucidcube.stages.deconvolve import WITH_ERRORS, Deconvolve

INFINITY = float("inf")
REPEAT_ITERATIONS = 60
"""Number of iterations for data that are similar to those of a result, from which they start."""

Chi2Target = Annotated[
    float | None,
    parameter(
        ...,
        "",
        "stop when the mean of residual^2 / variance, at most 25 each, over pixels above 3 standard "
        "deviations falls to this value; null does not stop by the noise",
        gt=0,
    ),
]
RestoringBeam = Annotated[
    Literal["fit"] | Annotated[float, Field(ge=0)],
    parameter(
        ...,
        "pixel",
        "full width at half maximum of the Gaussian under which the restored image shows the components; "
        "fit takes it from the core of the PSF, 0 leaves the components as they are",
    ),
]
Iterations = Annotated[int, parameter(..., "iterations", "maximum number of iterations", ge=0)]


class MapDeconvolution(Deconvolve):
    """Edge-preserving maximum a posteriori estimate (Mugnier, Fusco & Conan 2004, JOSA A 21, 1841).

    The object is a smooth part with sharp edges plus points (Giovannelli & Coulais 2005, A&A 439, 401), both
    positive, also beyond the edge of the frame. Points that are fainter than the light around them, such as
    those along a cloud or a ring, are joined (Chen & Selesnick 2014, Signal Processing 94, 476).

    The residual is the input minus the model, whose light may come from beyond the edge of the frame. The
    parameters are pure numbers, in units of the median noise of each plane.
    """

    kernel = staticmethod(map_deconvolution)
    planes_kernel = staticmethod(map_planes)
    together_copies = 27
    extras = (POINTS, MODEL)
    produces = (DATA, RESIDUAL, *extras, *WITH_ERRORS, *DECONVOLUTION_LOG)
    copies = 10.8
    scratch = 50
    method: Literal["map"] = "map"

    n_iter: Iterations = 200
    mu: float = parameter(0.07, "", "weight of the smoothness", ge=0)
    point_penalty: float = parameter(
        0.55,
        "standard deviations",
        "weight of the sum of the points: how significant the residual, correlated with the PSF, must be "
        "before a point explains it; isolated moons and stars keep their flux",
        ge=0,
    )
    delta: float = parameter(
        1.0, "noise", "difference between neighbouring pixels above which it counts as an edge", gt=0
    )
    robust: float | None = parameter(
        3.0,
        "standard deviations",
        "residual above which a pixel counts less, as a missed artefact; null is least squares",
        gt=0,
    )
    tolerance: float = parameter(
        1e-7, "", "stop when the objective decreases by less than this fraction", ge=0
    )
    chi2_target: Chi2Target = None

    @property
    def needs_variance(self) -> bool:
        """Whether the noise is estimated from planes without a variance."""
        return True

    def repeat(self, found: Deconvolution, psf: np.ndarray, data: np.ndarray, **given: Any) -> np.ndarray:
        """Return the components of data that are similar to those of a result, from which it starts."""
        if self.chi2_target is not None:  # which the result has reached already
            return super().repeat(found, psf, data, **given)
        fewer = self.model_copy(update={"n_iter": min(self.n_iter, REPEAT_ITERATIONS)})
        return fewer.deconvolve_plane(data, psf, start=found.start, **given).components

    def scaled(self, scale: float) -> Self:
        """Return the same stage, whose parameters do not depend on the unit of the data."""
        return self


class CleanModified(Deconvolve):
    """Flux-conserving Steer CLEAN for extended sources (Steer, Dewdney & Ito 1984, A&A 137, 159)."""

    kernel = staticmethod(clean_modified)
    planes_kernel = staticmethod(clean_planes)
    together_copies = 34
    extras = (RESTORED,)
    produces = (DATA, RESIDUAL, *extras, *WITH_ERRORS, *DECONVOLUTION_LOG)
    copies = 9.6
    scratch = 29
    method: Literal["clean_modified"]

    n_iter: Iterations = 1000
    loop_gain: float = parameter(
        0.02, "", "fraction of the selected residual that is added to the components", gt=0, le=1
    )
    threshold: float = parameter(
        0.3,
        "",
        "fraction of the brightest residual above which pixels are selected; if negative, a nested Otsu "
        "threshold is computed at each iteration",
        le=1,
    )
    n_positive_iter: int = parameter(
        0, "iterations", "number of initial iterations that select positive residuals only", ge=0
    )
    noise_std: float | None = parameter(
        None,
        "of the data",
        "standard deviation of the noise, for chi2 if there is no variance; null estimates it",
        gt=0,
    )
    rms_frac_threshold: float = parameter(
        1e-2, "", "stop when the rms residual is below this fraction of the initial one", ge=0
    )
    fabs_frac_threshold: float = parameter(
        1e-2, "", "stop when the largest residual is below this fraction of the initial one", ge=0
    )
    max_stat_increase: float = parameter(
        INFINITY,
        "",
        "stop when a statistic exceeds its best value by this fraction",
        ge=0,
        allow_inf_nan=True,
    )
    min_frac_stat_delta: float = parameter(
        1e-3, "", "stop when both statistics vary by less than this fraction over 10 iterations", ge=0
    )
    give_best_result: bool = parameter(True, "", "return the iterate with the best statistics")
    clean_beam_sigma: float = parameter(
        0.0, "pixel", "width of a Gaussian that smooths the components; 0 does not smooth", ge=0
    )
    chi2_target: Chi2Target = 1.0
    restoring_beam: RestoringBeam = "fit"

    @property
    def needs_variance(self) -> bool:
        """Whether the noise is estimated from planes without a variance."""
        return self.noise_std is None

    @property
    def computes_together(self) -> bool:
        """Whether planes can be deconvolved together: not if the threshold is that of Otsu."""
        return self.threshold >= 0

    def scaled(self, scale: float) -> Self:
        """Return the same stage with `noise_std` in the units of the multiplied data."""
        if self.noise_std is None:
            return self
        return self.model_copy(update={"noise_std": self.noise_std * scale})


class CleanMultiscale(Deconvolve):
    """Multiscale CLEAN, whose components are Gaussians of a few widths (Cornwell 2008, IEEE JSTSP 2, 793)."""

    kernel = staticmethod(clean_multiscale)
    extras = (RESTORED,)
    produces = (DATA, RESIDUAL, *extras, *WITH_ERRORS, *DECONVOLUTION_LOG)
    copies = 9
    scratch = 43
    method: Literal["clean_multiscale"]

    n_iter: Iterations = 400
    scales: tuple[Annotated[float, Field(ge=0)], ...] = parameter(
        (0.0, 1.5, 3.0, 6.0),
        "pixel",
        "standard deviations of the Gaussians; 0 is a single pixel",
        min_length=1,
    )
    gain: float = parameter(0.6, "", "fraction of the step that leaves the smallest residual", gt=0, lt=2)
    threshold: float = parameter(
        0.5, "", "fraction of the strongest response above which pixels are selected", ge=0, le=1
    )
    chi2_target: Chi2Target = 1.0
    restoring_beam: RestoringBeam = "fit"

    def scaled(self, scale: float) -> Self:
        """Return the same stage, whose parameters do not depend on the unit of the data."""
        return self


class LucyRichardson(Deconvolve):
    """Accelerated Lucy-Richardson (Richardson 1972, JOSA 62, 55; Biggs & Andrews 1997, ApOpt 36, 1766)."""

    kernel = staticmethod(lucy_richardson)
    planes_kernel = staticmethod(lucy_richardson_planes)
    together_copies = 42
    copies = 8.3
    scratch = 32
    method: Literal["lucy_richardson"]

    n_iter: Iterations = 100
    nudge_factor: float = parameter(
        0.0, "", "fraction of the maximum that is added to both sides of the ratio", ge=0
    )
    strength: float = parameter(
        1.0, "", "fraction of each correction that is applied; 1 is the original algorithm", gt=0, le=1
    )
    cf_negative_fix: bool = parameter(True, "", "replace negative correction factors by small positive ones")
    cf_limit: float = parameter(
        INFINITY, "", "stop when a correction factor exceeds this value", gt=0, allow_inf_nan=True
    )
    cf_uclip: float = parameter(INFINITY, "", "largest correction factor that is applied", allow_inf_nan=True)
    cf_lclip: float = parameter(
        -INFINITY, "", "smallest correction factor that is applied", allow_inf_nan=True
    )
    offset_obs: bool = parameter(
        False, "", "add an offset that makes the data non-negative, and subtract it from the result"
    )
    threshold: float | None = parameter(
        None,
        "of the data",
        "do not correct pixels whose residual is below this value; a negative value is a fraction of the "
        "brightest residual, zero is the mean plus one standard deviation; null corrects all pixels",
    )
    pad_observation: bool = parameter(
        True, "", "extend the plane beyond its edge, to avoid ringing at the edge"
    )
    weighted: bool = parameter(
        True,
        "",
        "give filled pixels no weight, and others weights such that each counts as its variance says; "
        "otherwise filled pixels are data, and the variance is proportional to the light",
    )
    accelerate: bool = parameter(
        True, "", "extrapolate from step to step, which needs several times fewer iterations"
    )
    chi2_target: Chi2Target = 1.0

    @model_validator(mode="after")
    def _ordered_clips(self) -> Self:
        if self.cf_lclip > self.cf_uclip:
            raise ValueError(f"cf_lclip {self.cf_lclip:g} is above cf_uclip {self.cf_uclip:g}")
        return self

    def scaled(self, scale: float) -> Self:
        """Return the same stage with an absolute `threshold` in the units of the multiplied data."""
        if self.threshold is None or self.threshold <= 0:
            return self
        return self.model_copy(update={"threshold": self.threshold * scale})
