"""Stage `fit_psf`: fit a noise-free model to the star."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr
from pydantic import BeforeValidator, ConfigDict, create_model, model_validator

from lucidcube.cube import (
    CHANNEL,
    DATA,
    FIT_RESULTS,
    MODE,
    PARAMETER,
    PSF_MODES,
    PSF_PLANE,
    UNITS,
    VARIANCE,
    WAVELENGTH,
    X,
    Y,
    block_sizes,
)
from lucidcube.errors import CubeError
from lucidcube.kernels.psf.effective import effective_psf
from lucidcube.kernels.psf.fit import FitStatus, fit_parametric_psf, fit_radial_psf
from lucidcube.kernels.psf.fit_problem import Solution, Solver
from lucidcube.kernels.psf.least_squares import solve_least_squares, solve_minimize
from lucidcube.kernels.psf.models import MODELS, ModelSpec, Parameter
from lucidcube.kernels.psf.nested_sampling import solve_nested_sampling
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.kernels.psf.star_position import saturated_pixels
from lucidcube.kernels.psf.star_shape import star_shape
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.lift.windows import over_windows, planes_read
from lucidcube.stages.base import Parameters, Stage, parameter

SPEED_OF_LIGHT = 299792458.0
PHYSICAL = ("turbulence", "muse_ao")
"""Models that depend on the wavelength."""

STATUS = {UNITS: "", "meanings": {str(int(s)): s.name.lower().replace("_", " ") for s in FitStatus}}


class FitPSF(Stage):
    """Fit a model to the star, and use the image of the model as the PSF.

    The PSF is the model centred on the central pixel, without the background; it is finite, non-negative and
    has a sum of one. The fitted parameters, their errors, the reduced chi squared and the status of the fit
    are written to a table. A plane that cannot be fitted becomes NaN. The variance is used as weight if there
    is one, and is dropped, because a model has no noise. The model `effective` takes the star as it was
    observed or after `normalise_psf`, and smooths along wavelength; the others need `normalise_psf`, and fit
    each plane on its own.
    """

    name: ClassVar[str] = "fit_psf"
    choices: ClassVar[tuple[str, ...]] = ("model", "method")
    optional: ClassVar[tuple[str, ...]] = (VARIANCE,)
    produces: ClassVar[tuple[str, ...]] = (DATA, *FIT_RESULTS)
    drops: ClassVar[tuple[str, ...]] = (VARIANCE,)
    version: ClassVar[int] = 4
    copies: ClassVar[float] = 4.5
    scratch: ClassVar[float] = 22
    tag: ClassVar[str] = "_modelled"

    model: str = parameter(..., "", "model of the star")
    method: str = parameter(..., "", "algorithm that fits the model")

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        plane = cube[DATA].isel({WAVELENGTH: cube.sizes[WAVELENGTH] // 2}).values
        shape = star_shape(plane)
        if count := saturated_pixels(plane):
            yield (
                f"the star looks saturated, because its {count} brightest pixels have the same value: the "
                "PSF is then too wide, and the result can be worse than the input; use another star"
            )
        elif shape.extended:
            yield (
                "the star looks like a disc, and not like a point: the PSF is then too wide, and the result "
                "can be worse than the input; is it a star, or are the target and the star swapped?"
            )
        elif shape.double:
            yield (
                f"the star looks double, with a second one of {shape.companion:.0%} of its brightness: the "
                "PSF contains some of its light; use another star, or cut it out with slice"
            )

    def file_tag(self) -> str:
        """Return the suffix, with the name of the model."""
        return f"{self.tag}_{self.model}"


class EffectiveLeastSquares(FitPSF):
    """Use smooth functions of radius and angle that vary smoothly with wavelength (Anderson & King 2000).

    They are fitted by robust linear least squares. The star may be anywhere in the field, on any background.
    """

    model: Literal["effective"] = "effective"
    method: Literal["least_squares"] = "least_squares"
    smoothing: int = parameter(
        15,
        "planes",
        "planes on either side over which the PSF is smoothed along wavelength; 0 for none",
        ge=0,
        le=15,
    )
    modes: int = parameter(
        0,
        "",
        "number of principal components of the error of the PSF that are made, for the errors of the "
        "deconvolution; a config that asks for those gets 4",
        ge=0,
        le=20,
    )
    produces = (DATA, PSF_MODES, *FIT_RESULTS)

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        flux = str(cube[DATA].attrs.get(UNITS, ""))
        odd = {Y: cube.sizes[Y] - 1 + cube.sizes[Y] % 2, X: cube.sizes[X] - 1 + cube.sizes[X] % 2}
        new = odd | (dict(zip(PSF_PLANE, odd.values(), strict=True)) if self.modes else {})
        names = {"names": ["x", "y", "flux", "background"], "units": ["pixel", "pixel", flux, flux]}
        made = over_windows(
            cube.assign_coords({"metres": (WAVELENGTH, metres_of(cube))}),
            self.name,
            partial(_fit_window, shape=(odd[Y], odd[X]), smoothing=float(self.smoothing), modes=self.modes),
            [DATA, "metres"],
            _outputs(names) | self._modes(),
            optional=[VARIANCE],
            sizes={**new, MODE: self.modes, PARAMETER: len(names["names"])},
            halo=self.smoothing,
            whole_groups=True,
        )
        trimmed = [
            n for n, v in cube.data_vars.items() for d in new if d in v.dims and new[d] != cube.sizes[d]
        ]
        return cube.drop_vars(trimmed).assign(made)

    def _modes(self) -> dict[str, Output]:
        """Return the description of the modes, if there are any."""
        return {PSF_MODES: Output(dims=(MODE, *PSF_PLANE), attrs={UNITS: ""})} if self.modes else {}

    def working_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Return the bytes of memory for one block: the planes of its windows and their fits."""
        planes = planes_read(max(block_sizes(after)), before.sizes[WAVELENGTH], self.smoothing)
        pixels = before.sizes[Y] * before.sizes[X]
        block = max(block_sizes(after)) * pixels
        fits = planes * (64 * min(pixels, 13_000) + 20_000)
        return int((4.0 * planes + 24.0) * pixels + (4 + 2 * self.modes) * block + fits) * 4


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
            _outputs({"names": list(spec.names), "units": [p.unit for p in spec.parameters]}),
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


def _outputs(names: dict[str, list[str]]) -> dict[str, Output]:
    """Describe the results of a fit with parameters of these names and units."""
    return {
        DATA: Output(attrs={UNITS: ""}),
        "fit_value": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
        "fit_error": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
        "reduced_chi2": Output(dims=(), dtype="float64", attrs={UNITS: ""}),
        "fit_status": Output(dims=(), dtype="uint8", blank=int(FitStatus.NO_DATA), attrs=STATUS),
    }


def metres_of(cube: xr.Dataset) -> np.ndarray:
    """Return the wavelength of each plane; NaN on a velocity axis."""
    axis, unit = cube[WAVELENGTH].values, cube[WAVELENGTH].attrs.get(UNITS, "m")
    if unit == "Hz":
        return SPEED_OF_LIGHT / axis
    return axis if unit == "m" else np.full(axis.shape, np.nan)


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


def _fit_window(
    star: np.ndarray, metres: np.ndarray, variance: np.ndarray | None, *, wanted: slice, **settings: Any
) -> tuple[Any, ...]:
    made = effective_psf(star, variance, metres, wanted=wanted, **settings)
    return made if settings["modes"] else made[:-1]


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
