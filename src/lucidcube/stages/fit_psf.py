"""Stage `fit_psf`: a model of the star, without its noise."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal, Self, Union

import numpy as np
import xarray as xr
from pydantic import Field, create_model, model_validator

from lucidcube.cube import CHANNEL, DATA, PARAMETER, UNITS, VARIANCE, WAVELENGTH, X, Y
from lucidcube.errors import CubeError
from lucidcube.kernels.psf.fit import FitStatus, fit_parametric_psf, fit_radial_psf
from lucidcube.kernels.psf.fit_problem import Solver
from lucidcube.kernels.psf.least_squares import solve_least_squares, solve_minimize
from lucidcube.kernels.psf.models import MODELS, ModelSpec, Parameter
from lucidcube.kernels.psf.nested_sampling import solve_nested_sampling
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Parameters, Stage, Variant, parameter

SPEED_OF_LIGHT = 299792458.0
PHYSICAL = ("turbulence", "muse_ao")
"""Models that need to know the wavelength."""


class FitParameter(Parameters):
    """A parameter of a model: where it starts, where it may go, and whether it may move at all."""

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


class FitModel(Variant):
    """A model of a star."""

    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters as the kernel takes them, in its order."""
        specs = {p.name: p for p in MODELS[getattr(self, "model")].parameters}  # noqa: B009
        return tuple(
            specs[name]._replace(start=p.start, lower=p.domain[0], upper=p.domain[1], free=p.free)
            for name, p in self
            if isinstance(p, FitParameter)
        )

    @model_validator(mode="before")
    @classmethod
    def _partly(cls, values: Any) -> Any:
        """Let a parameter be given in part, or as a bare start value; the model knows the rest."""
        if not isinstance(values, dict):
            return values
        full = {}
        for name, value in values.items():
            field = cls.model_fields.get(name)
            usual = field.default if field is not None else None
            if isinstance(usual, FitParameter) and not isinstance(value, FitParameter):
                given = value if isinstance(value, dict) else {"start": value}
                value = {**usual.model_dump(), **given}
            full[name] = value
        return full


def _variant(spec: ModelSpec) -> type[FitModel]:
    """The variant of a model of the kernel: its parameters are declared there, and nowhere else."""
    fields: dict[str, Any] = {"model": (Literal[spec.name], spec.name)}
    if spec.name == "radial":
        fields["nbins"] = (
            int,
            parameter(50, unit="", ge=3, text="number of annuli with logarithmic edges"),
        )
    for p in spec.parameters:
        usual = FitParameter(start=p.start, domain=(p.lower, p.upper), free=p.free)
        fields[p.name] = (FitParameter, parameter(usual, unit=p.unit, text=p.description))
    name = "".join(word.title() for word in spec.name.split("_"))
    text = spec.description[0].upper() + spec.description[1:] + "."
    made: type[FitModel] = create_model(name, __base__=FitModel, __doc__=text, **fields)
    return made


VARIANTS = {name: _variant(spec) for name, spec in MODELS.items()}


class LeastSquares(Variant):
    """Bounded least squares by a trust region; for `radial` by Gauss-Newton steps."""

    method: Literal["least_squares"] = "least_squares"
    max_evaluations: int = parameter(200, unit="", ge=1, text="most evaluations of the model")

    def solver(self, channel: int) -> Solver:
        """Return the solver for a plane."""
        return partial(solve_least_squares, max_evaluations=self.max_evaluations)


class Minimize(Variant):
    """Bounded quasi-Newton descent of chi squared (L-BFGS-B); `radial` is fitted as by least_squares."""

    method: Literal["minimize"] = "minimize"
    max_evaluations: int = parameter(200, unit="", ge=1, text="most evaluations of the model")

    def solver(self, channel: int) -> Solver:
        """Return the solver for a plane."""
        return partial(solve_minimize, max_evaluations=self.max_evaluations)


class UltraNest(Variant):
    """Nested sampling: slow, with errors from the posterior; needs the extra `nested`."""

    method: Literal["ultranest"] = "ultranest"
    live_points: int = parameter(100, unit="", ge=20, text="live points of the sampler")
    max_calls: int = parameter(100_000, unit="", ge=1, text="most evaluations of the likelihood")

    @model_validator(mode="after")
    def _is_installed(self) -> Self:
        if find_spec("ultranest") is None:
            raise ValueError("ultranest is not installed: pip install 'lucidcube[nested]'")
        return self

    def solver(self, channel: int) -> Solver:
        """Return the solver for a plane, seeded by its channel."""
        return partial(
            solve_nested_sampling, live_points=self.live_points, max_calls=self.max_calls, seed=channel
        )


class FitPSF(Stage):
    """Fit a model to the normalised star; the image of the model becomes the PSF.

    Per plane, weighted by the variance where there is one. The PSF is the model about the central
    pixel, without the constant, finite, not negative, and of unit sum. Fitted parameters, their errors,
    the reduced chi squared and how the fit ended go to a table. A plane that cannot be fitted becomes
    NaN; the others go on. A model has no noise: the variance ends here.
    """

    name: ClassVar[str] = "fit_psf"
    optional: ClassVar[tuple[str, ...]] = (VARIANCE,)
    produces: ClassVar[tuple[str, ...]] = (DATA, "fit_value", "fit_error", "reduced_chi2", "fit_status")
    drops: ClassVar[tuple[str, ...]] = (VARIANCE,)
    copies: ClassVar[float] = 4.5
    scratch: ClassVar[float] = 22
    tag: ClassVar[str] = "_modelled"

    model: Annotated[Union[tuple(VARIANTS.values())], Field(discriminator="model")] = parameter(  # type: ignore[valid-type]  # noqa: UP007
        VARIANTS["radial"](), unit="", text="what the star is taken to look like"
    )
    method: Annotated[LeastSquares | Minimize | UltraNest, Field(discriminator="method")] = parameter(
        LeastSquares(), unit="", text="how the model is fitted"
    )
    telescope_diameter: float = parameter(
        8.0, unit="m", gt=0, text="of the primary mirror, for turbulence and muse_ao"
    )
    central_obscuration: float = parameter(
        0.14, unit="", ge=0, lt=1, text="diameter of the obscuration as a fraction of the mirror's"
    )
    pixel_scale: float = parameter(
        0.025, unit="arcsec", gt=0, text="side of a pixel on the sky, for turbulence and muse_ao"
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        sides = (cube.sizes[Y], cube.sizes[X])
        if any(n % 2 == 0 for n in sides):
            raise CubeError(
                f"fit_psf needs a central pixel, but the star has {sides[0]} x {sides[1]} pixels (y x): "
                "put normalise_psf before it"
            )
        spec = MODELS[self.model.model]
        names = {"names": list(spec.names), "units": [p.unit for p in spec.parameters]}
        outputs = {
            DATA: Output(attrs={UNITS: ""}),
            "fit_value": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
            "fit_error": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
            "reduced_chi2": Output(dims=(), dtype="float64", attrs={UNITS: ""}),
            "fit_status": Output(dims=(), dtype="uint8", blank=int(FitStatus.NO_DATA), attrs=STATUS),
        }
        parameters = self.model.parameters()
        if spec.star is None:
            kernel = partial(_fit_radial, parameters=parameters, nbins=self.model.nbins)
        else:
            optics = Optics(self.telescope_diameter, self.central_obscuration, self.pixel_scale)
            kernel = partial(
                _fit_parametric, method=self.method, star=spec.star, parameters=parameters, optics=optics
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

    def file_tag(self) -> str:
        """With the name of the model."""
        return f"{self.tag}_{self.model.model}"

    def _metres(self, cube: xr.Dataset) -> np.ndarray:
        axis, unit = cube[WAVELENGTH].values, cube[WAVELENGTH].attrs.get(UNITS, "m")
        metres = SPEED_OF_LIGHT / axis if unit == "Hz" else axis
        if self.model.model in PHYSICAL and (unit not in ("m", "Hz") or not np.isfinite(metres).all()):
            raise CubeError(
                f"fit_psf: the model {self.model.model} needs the wavelength of every plane: give "
                "wave_start, wave_step and wave_unit with the input, or take another model"
            )
        return metres


STATUS = {UNITS: "", "meanings": {str(int(s)): s.name.lower().replace("_", " ") for s in FitStatus}}


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
    method: LeastSquares | Minimize | UltraNest,
    **settings: Any,
) -> tuple[Any, ...]:
    solver = method.solver(int(channel))
    return fit_parametric_psf(plane, variance, wavelength=float(metres), solver=solver, **settings)
