"""The models of the stage `fit_psf` that are fitted to each plane on its own, with their parameters."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr
from pydantic import BeforeValidator, ConfigDict, create_model, model_validator

from lucidcube.cube import CHANNEL, DATA, PARAMETER, VARIANCE, WAVELENGTH, X, Y
from lucidcube.errors import CubeError
from lucidcube.kernels.psf.fit import fit_parametric_psf, fit_radial_psf
from lucidcube.kernels.psf.fit_problem import Solution, Solver
from lucidcube.kernels.psf.least_squares import solve_least_squares, solve_minimize
from lucidcube.kernels.psf.models import MODELS, ModelSpec, Parameter
from lucidcube.kernels.psf.nested_sampling import solve_nested_sampling
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.lift.blocks import over_planes
from lucidcube.stages.base import Parameters, parameter
from lucidcube.stages.fit_psf import FitPSF, fit_outputs, metres_of

PHYSICAL = ("turbulence", "muse_ao")
"""Models that depend on the wavelength."""


class Telescope(Parameters):
    """Parameters of the telescope, on which some models depend."""

    telescope_diameter: float = parameter(
        8.0, "m", "diameter of the primary mirror, for turbulence and muse_ao", gt=0
    )
    central_obscuration: float = parameter(
        0.14, "", "diameter of the central obscuration as a fraction of that of the mirror", ge=0, lt=1
    )


class _EachPlane(Telescope):
    """Parameters that all models share that are fitted to each plane on its own."""

    name: ClassVar[str] = FitPSF.name
    prepared_by: ClassVar[tuple[str, ...]] = ("normalise_psf",)

    model: str = parameter(..., "", "model of the star")
    pixel_scale: float = parameter(
        0.025, "arcsec", "side of a pixel on the sky, for turbulence and muse_ao", gt=0
    )

    @abstractmethod
    def solver(self, channel: int) -> Solver:
        """Return the solver for the plane of a channel."""

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        """Return the images of the fitted models; see `Stage.apply`."""
        sides = (cube.sizes[Y], cube.sizes[X])
        if any(n % 2 == 0 for n in sides):
            raise CubeError(
                f"fit_psf: the model {self.model} needs a central pixel, but the star has "
                f"{sides[0]} x {sides[1]} pixels (y x): put normalise_psf before it"
            )
        spec = MODELS[self.model]
        metres = metres_of(cube)
        if self.model in PHYSICAL and not np.isfinite(metres).all():
            raise CubeError(
                f"fit_psf: the model {self.model} needs the wavelength of every plane: give "
                "wave_start, wave_step and wave_unit with the input, or choose another model"
            )
        parameters = self.parameters()
        if spec.star is None:
            kernel = partial(_fit_radial, parameters=parameters, nbins=getattr(self, "nbins"))  # noqa: B009
        else:
            optics = Optics(self.telescope_diameter, self.central_obscuration, self.pixel_scale)
            kernel = partial(
                _fit_parametric, solver=self.solver, star=spec.star, parameters=parameters, optics=optics
            )
        made = over_planes(
            cube.assign_coords({"metres": (WAVELENGTH, metres)}),
            self.name,
            kernel,
            [DATA, "metres", CHANNEL],
            fit_outputs({"names": list(spec.names), "units": [p.unit for p in spec.parameters]}),
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


class FitParameter(Parameters):
    """A parameter of a model: its start value, its domain, and whether it is fitted.

    It may be given in part, or by its start value alone; the other values are those of the model.
    """

    model_config = ConfigDict(
        allow_inf_nan=True,  # a domain may have no end
        json_schema_extra=lambda schema: schema.update(type=["object", "number"], required=[]),
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
    fields: dict[str, Any] = {"model": (Literal[spec.name], ...)}
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
        _name, __base__=(_parameters, _method, _EachPlane, FitPSF), __doc__=_text, __module__=__name__
    )
