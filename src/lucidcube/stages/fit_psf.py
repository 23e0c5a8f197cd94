"""Stage `fit_psf`: fit a noise-free model to the star."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr
from pydantic import BeforeValidator, ConfigDict, create_model, model_validator

from lucidcube.cube import CHANNEL, DATA, FIT_RESULTS, PARAMETER, UNITS, VARIANCE, WAVELENGTH, X, Y
from lucidcube.errors import CubeError
from lucidcube.kernels.psf.fit import FitStatus, fit_parametric_psf, fit_radial_psf
from lucidcube.kernels.psf.fit_problem import Solution, Solver
from lucidcube.kernels.psf.least_squares import solve_least_squares, solve_minimize
from lucidcube.kernels.psf.models import MODELS, ModelSpec, Parameter
from lucidcube.kernels.psf.nested_sampling import solve_nested_sampling
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Parameters, Stage, parameter

SPEED_OF_LIGHT = 299792458.0
PHYSICAL = ("turbulence", "muse_ao")
"""Models that depend on the wavelength."""

STATUS = {UNITS: "", "meanings": {str(int(s)): s.name.lower().replace("_", " ") for s in FitStatus}}


class FitPSF(Stage):
    """Fit a model to the normalised star, and use the image of the model as the PSF.

    Each plane is fitted on its own, weighted by the variance if there is one. The PSF is the model centred
    on the central pixel, without the constant; it is finite, non-negative and has a sum of one. The fitted
    parameters, their errors, the reduced chi squared and the status of the fit are written to a table. A
    plane that cannot be fitted becomes NaN, and the others are not affected. The variance is dropped, because
    a model has no noise.
    """

    name: ClassVar[str] = "fit_psf"
    choices: ClassVar[tuple[str, ...]] = ("model", "method")
    optional: ClassVar[tuple[str, ...]] = (VARIANCE,)
    produces: ClassVar[tuple[str, ...]] = (DATA, *FIT_RESULTS)
    drops: ClassVar[tuple[str, ...]] = (VARIANCE,)
    copies: ClassVar[float] = 4.5
    scratch: ClassVar[float] = 22
    tag: ClassVar[str] = "_modelled"

    model: str = parameter(..., "", "model of the star")
    method: str = parameter(..., "", "algorithm that fits the model")
    telescope_diameter: float = parameter(
        8.0, "m", "diameter of the primary mirror, for turbulence and muse_ao", gt=0
    )
    central_obscuration: float = parameter(
        0.14, "", "diameter of the central obscuration as a fraction of that of the mirror", ge=0, lt=1
    )
    pixel_scale: float = parameter(
        0.025, "arcsec", "side of a pixel on the sky, for turbulence and muse_ao", gt=0
    )

    @abstractmethod
    def solver(self, channel: int) -> Solver:
        """Return the solver for the plane of a channel."""

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        sides = (cube.sizes[Y], cube.sizes[X])
        if any(n % 2 == 0 for n in sides):
            raise CubeError(
                f"fit_psf needs a central pixel, but the star has {sides[0]} x {sides[1]} pixels (y x): "
                "put normalise_psf before it"
            )
        spec = MODELS[self.model]
        names = {"names": list(spec.names), "units": [p.unit for p in spec.parameters]}
        outputs = {
            DATA: Output(attrs={UNITS: ""}),
            "fit_value": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
            "fit_error": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
            "reduced_chi2": Output(dims=(), dtype="float64", attrs={UNITS: ""}),
            "fit_status": Output(dims=(), dtype="uint8", blank=int(FitStatus.NO_DATA), attrs=STATUS),
        }
        parameters = self.parameters()
        if spec.star is None:
            kernel = partial(_fit_radial, parameters=parameters, nbins=getattr(self, "nbins"))  # noqa: B009
        else:
            optics = Optics(self.telescope_diameter, self.central_obscuration, self.pixel_scale)
            kernel = partial(
                _fit_parametric, solver=self.solver, star=spec.star, parameters=parameters, optics=optics
            )
        made = over_planes(
            cube.assign_coords({"metres": (WAVELENGTH, self._metres(cube))}),
            self.name,
            kernel,
            [DATA, "metres", CHANNEL],
            outputs,
            optional=[VARIANCE],
            sizes={PARAMETER: len(spec.parameters)},
        )
        return cube.assign(made)

    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters of the model in the form and order that the kernel expects."""
        pairs = [(p, getattr(self, p.name)) for p in MODELS[self.model].parameters]
        return tuple(
            p._replace(start=given.start, lower=given.domain[0], upper=given.domain[1], free=given.free)
            for p, given in pairs
        )

    def file_tag(self) -> str:
        """Return the suffix, with the name of the model."""
        return f"{self.tag}_{self.model}"

    def _metres(self, cube: xr.Dataset) -> np.ndarray:
        axis, unit = cube[WAVELENGTH].values, cube[WAVELENGTH].attrs.get(UNITS, "m")
        metres = SPEED_OF_LIGHT / axis if unit == "Hz" else axis
        if self.model in PHYSICAL and (unit not in ("m", "Hz") or not np.isfinite(metres).all()):
            raise CubeError(
                f"fit_psf: the model {self.model} needs the wavelength of every plane: give "
                "wave_start, wave_step and wave_unit with the input, or choose another model"
            )
        return metres


class FitParameter(Parameters):
    """A parameter of a model: its start value, its domain, and whether it is fitted.

    It may be given in part, or by its start value alone; the other values are those of the model.
    """

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema.update(type=["object", "number"], required=[])
    )

    start: float | None = None
    domain: tuple[float, float]
    free: bool

    @model_validator(mode="after")
    def _start_inside(self) -> Self:
        low, high = self.domain
        if not low < high:
            raise ValueError(f"the domain {low:g} to {high:g} is empty")
        if self.start is not None and not low <= self.start <= high:
            raise ValueError(f"start {self.start:g} is outside of the domain {low:g} to {high:g}")
        return self


class _Descent(Parameters):
    minimiser: ClassVar[Callable[..., Solution]]
    max_evaluations: int = parameter(200, "", "maximum number of evaluations of the model", ge=1)

    def solver(self, channel: int) -> Solver:
        """Return the minimiser with its parameters."""
        return partial(type(self).minimiser, max_evaluations=self.max_evaluations)


class LeastSquares(_Descent):
    """Use bounded least squares with a trust region; `radial` is fitted by Gauss-Newton steps."""

    minimiser = staticmethod(solve_least_squares)
    method: Literal["least_squares"] = "least_squares"


class Minimize(_Descent):
    """Minimise chi squared by a bounded quasi-Newton method (L-BFGS-B); `radial` as with least_squares."""

    minimiser = staticmethod(solve_minimize)
    method: Literal["minimize"]


class UltraNest(Parameters):
    """Use nested sampling: slow, with errors from the posterior; needs the extra `nested`."""

    method: Literal["ultranest"]
    live_points: int = parameter(100, "", "number of live points of the sampler", ge=20)
    max_calls: int = parameter(100_000, "", "maximum number of evaluations of the likelihood", ge=1)

    @model_validator(mode="after")
    def _is_installed(self) -> Self:
        if find_spec("ultranest") is None:
            raise ValueError("ultranest is not installed: pip install 'lucidcube[nested]'")
        return self

    def solver(self, channel: int) -> Solver:
        """Return `solve_nested_sampling` with its parameters, seeded by the channel."""
        return partial(
            solve_nested_sampling, live_points=self.live_points, max_calls=self.max_calls, seed=channel
        )


def _fit_radial(
    plane: np.ndarray, metres: float, channel: int, variance: np.ndarray | None, **settings: Any
) -> tuple[Any, ...]:
    return fit_radial_psf(plane, variance, **settings)


def _fit_parametric(
    plane: np.ndarray,
    metres: float,
    channel: int,
    variance: np.ndarray | None,
    *,
    solver: Callable[[int], Solver],
    **settings: Any,
) -> tuple[Any, ...]:
    return fit_parametric_psf(
        plane, variance, wavelength=float(metres), solver=solver(int(channel)), **settings
    )


def _complete(value: Any, usual: FitParameter) -> Any:
    """Complete a parameter that is given in part, or by its start value alone."""
    if isinstance(value, FitParameter):
        return value
    return {**usual.model_dump(), **(value if isinstance(value, dict) else {"start": value})}


def _model(spec: ModelSpec) -> type[Parameters]:
    """Return a class with the parameters of a model, as declared in the kernel."""
    default = spec.name if spec.name == "radial" else ...
    fields: dict[str, Any] = {"model": (Literal[spec.name], default)}
    if spec.name == "radial":
        fields["nbins"] = (int, parameter(50, "", "number of annuli, with logarithmic edges", ge=3))
    for p in spec.parameters:
        usual = FitParameter(start=p.start, domain=(p.lower, p.upper), free=p.free)
        kind = Annotated[FitParameter, BeforeValidator(partial(_complete, usual=usual))]
        fields[p.name] = (kind, parameter(usual, p.unit, p.description))
    text = f"{spec.description[0].upper()}{spec.description[1:]}."
    return create_model(spec.name.title().replace("_", ""), __base__=Parameters, __doc__=text, **fields)


for _parameters, _method in product(map(_model, MODELS.values()), (LeastSquares, Minimize, UltraNest)):
    _name = f"{_parameters.__name__}{_method.__name__}"
    _text = f"{_parameters.__doc__} {_method.__doc__}"
    # The classes are attributes of the module, so that instances can be pickled.
    globals()[_name] = create_model(
        _name, __base__=(_parameters, _method, FitPSF), __doc__=_text, __module__=__name__
    )
