"""Stage `model_psf`: make a PSF from a formula, without a star."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import create_model

from lucidcube.cube import DATA, PARAMETER, PSF, PSF_PLANE, UNITS, WAVELENGTH, X, Y, block_sizes
from lucidcube.errors import CubeError
from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.analytic import Model, light_in_pixels, model_psf, radius_of_light
from lucidcube.kernels.psf.models import MODELS, R0_WAVELENGTH, Parameter
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter
from lucidcube.stages.curves import Curve, LengthCurve, at_wavelengths, values_of, within
from lucidcube.stages.fit_psf import metres_of
from lucidcube.stages.fitted_models import Telescope
from lucidcube.stages.lengths import pixel_side

OUTSIDE = 1e-3
"""Fraction of the light that may lie outside of the image of a PSF, if the field is large enough."""
MUCH_OUTSIDE = 0.02
"""Fraction of the light outside of the image that is worth a warning."""
SMALLEST = 9
"""Smallest side of the image of a PSF in pixels."""
NARROWEST = 0.5
"""Smallest full width at half maximum in pixels; the light of a narrower PSF falls on a single pixel."""
AT_PLANE = ("amplitude", "background")
"""Parameters of `muse_ao` that fall as the square of the wavelength, and are those of each plane."""
VALUES = "values"
"""Variable that holds the parameters of each plane."""


class ModelPSF(Stage):
    """Make a PSF from a formula, where no star was observed.

    Each parameter is a value, or values at several wavelengths, as in ``{480nm: 0.09arcsec, 930nm:
    0.06arcsec}``: linear between these wavelengths, constant beyond. Lengths are angles, if the header has
    sky coordinates, or numbers of pixels. The PSF is integrated over pixels and centred, and has odd sides
    and a sum of one. Its image holds 99.9 % of the light, but is not larger than the field. In a config it
    replaces the star: ``star: {psf: {model: moffat, fwhm: 0.08arcsec}}``.
    """

    name: ClassVar[str] = "model_psf"
    choices: ClassVar[tuple[str, ...]] = ("model",)
    produces: ClassVar[tuple[str, ...]] = (PSF,)
    copies: ClassVar[float] = 2
    scratch: ClassVar[float] = 6
    tag: ClassVar[str] = "_psf"
    instead: ClassVar[str] = "or lengths in pixels, such as fwhm: 3"
    """What to type where the pixel scale is not known."""

    model: str = parameter(..., "", "formula of the PSF")
    pixel_scale: float | None = parameter(
        None, "arcsec", "side of a pixel on the sky; null takes it from the header", gt=0
    )

    @abstractmethod
    def curves(self) -> dict[str, Any]:
        """Return the parameters of the formula by name, in the order of the kernel."""

    def optics(self, cube: xr.Dataset) -> Optics:
        """Return the telescope, which only some formulas need."""
        return Optics(1.0, 0.0, 1.0)

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        values, optics = self._values(cube), self.optics(cube)
        side = self._side(cube, values)
        table = xr.Variable((WAVELENGTH, PARAMETER), values)
        if cube[DATA].chunks:
            table = table.chunk({WAVELENGTH: block_sizes(cube)})
        metres = np.nan_to_num(metres_of(cube), nan=1.0)  # formulas that need it have checked it
        made = over_planes(
            xr.Dataset({VALUES: table}, {**cube.coords, "metres": (WAVELENGTH, metres)}),
            self.name,
            partial(model_psf, model=self._word(), side=side, optics=optics),
            [VALUES, "metres"],
            {PSF: Output(dims=PSF_PLANE, attrs={UNITS: ""})},
            sizes=dict.fromkeys(PSF_PLANE, side),
        )
        return cube.drop_vars(PSF, errors="ignore").assign(made)

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        values, optics = self._values(cube), self.optics(cube)
        middle = len(values) // 2
        image = light_in_pixels(
            values[middle],
            float(metres_of(cube)[middle]),
            model=self._word(),
            side=self._side(cube, values),
            optics=optics,
        )
        outside = 1 - image.sum()
        if outside > MUCH_OUTSIDE:
            yield (
                f"{outside:.0%} of the light of the PSF lies further away than the field is wide, and is "
                "left out: fluxes are too small by this fraction where the PSF is right"
            )

    def _word(self) -> Model:
        word: Model = self.model  # type: ignore[assignment]
        return word

    def _values(self, cube: xr.Dataset) -> Doubles:
        """Return the parameters (plane, parameter) in pixels; CubeError if they are absurd."""
        curves, metres = self.curves(), metres_of(cube)
        missing = [name for name, curve in curves.items() if curve is None]
        if missing:
            raise CubeError(f"model_psf: the model {self.model} needs {' and '.join(missing)}")
        angles = any(isinstance(v, str) for curve in curves.values() for v in values_of(curve))
        pixel = self.pixel(cube) if angles else None
        made = [at_wavelengths(c, metres, pixel, f"model_psf: {n}") for n, c in curves.items()]
        values = np.stack(made, axis=1)
        for name, width in self.widths(cube, values).items():
            narrow, wide = width.min(), width.max()
            field = max(cube.sizes[Y], cube.sizes[X])
            if narrow < NARROWEST or wide > field:
                size = f"{narrow if narrow < NARROWEST else wide:.3g} pixels"
                limits = f"{NARROWEST:g} pixels to that of the field, {field}"
                raise CubeError(f"model_psf: {name} is {size}; widths from {limits} make sense")
        return values

    def widths(self, cube: xr.Dataset, values: Doubles) -> dict[str, Doubles]:
        """Return the widths of all planes in pixels, with their names, that must make sense."""
        return {"fwhm": values[:, 0]}

    def pixel(self, cube: xr.Dataset) -> float:
        """Return the side of a pixel in arcseconds."""
        if self.pixel_scale is not None:
            return self.pixel_scale
        try:
            return pixel_side(cube)
        except CubeError as error:
            raise CubeError(f"model_psf: {error}: give pixel_scale, {self.instead}") from None

    def _side(self, cube: xr.Dataset, values: Doubles) -> int:
        """Return the side of the image, which holds the light of all planes."""
        field = max(cube.sizes[Y], cube.sizes[X])
        reach = max(radius_of_light(row, self._word(), OUTSIDE) for row in np.unique(values, axis=0))
        return int(min(max(SMALLEST, 2 * np.ceil(min(reach, field)) + 1), field - 1 + field % 2))


class Moffat(ModelPSF):
    """Moffat function (Moffat 1969, A&A 3, 455), the usual form of seeing, and of partial adaptive optics."""

    model: Literal["moffat"] = "moffat"
    fwhm: LengthCurve = parameter(
        None, "pixel", "full width at half maximum, before the integration over pixels; it must be given"
    )
    beta: Annotated[Curve, within(1.05, 100)] = parameter(
        2.5, "", "exponent; the larger it is, the fainter are the wings"
    )

    def curves(self) -> dict[str, Any]:
        """Return the width and the exponent."""
        return {"fwhm": self.fwhm, "beta": self.beta}


class Gaussian(ModelPSF):
    """Round Gaussian."""

    model: Literal["gaussian"]
    fwhm: LengthCurve = parameter(
        None, "pixel", "full width at half maximum, before the integration over pixels; it must be given"
    )

    def curves(self) -> dict[str, Any]:
        """Return the width."""
        return {"fwhm": self.fwhm}


def _field(p: Parameter) -> Any:
    """Declare a parameter of the power spectrum; one without a usual value must be given."""
    text = p.description.partition(";")[0] + ("; it must be given" if p.start is None else "")
    kind = Annotated[Curve, within(p.lower, p.upper)]
    return (
        kind,
        parameter(p.start, p.unit, f"{text}, at the wavelength of the plane" if p.name in AT_PLANE else text),
    )


SPECTRUM = MODELS["muse_ao"].parameters[2:-2]
"""The shape parameters, which are those of `fit_psf`, without position, flux and background."""

_Spectrum: Any = create_model("_Spectrum", __base__=Telescope, **{p.name: _field(p) for p in SPECTRUM})


class MuseAO(ModelPSF, _Spectrum):
    """Adaptive optics: Moffat core inside the cut-off, von Karman halo outside (Fetick et al. 2019)."""

    model: Literal["muse_ao"]
    instead: ClassVar[str] = "or choose another model"

    def curves(self) -> dict[str, Any]:
        """Return the parameters of the power spectrum."""
        return {p.name: getattr(self, p.name) for p in SPECTRUM}

    def optics(self, cube: xr.Dataset) -> Optics:
        """Return the telescope on the pixels of the cube; CubeError if the wavelengths are not known."""
        if not np.isfinite(metres_of(cube)).all():
            raise CubeError(
                "model_psf: the model muse_ao needs the wavelength of every plane: give wave_start, "
                "wave_step and wave_unit with the input, or choose another model"
            )
        return Optics(self.telescope_diameter, self.central_obscuration, self.pixel(cube))

    def widths(self, cube: xr.Dataset, values: Doubles) -> dict[str, Doubles]:
        """Return the width of the seeing (Dierickx 1992, J. Mod. Opt. 39, 569)."""
        metres, optics = metres_of(cube), self.optics(cube)
        pupil = optics.telescope_diameter / values[:, 0] * (R0_WAVELENGTH / metres) ** 1.2
        return {"the seeing": 0.98 * pupil * optics.resolution(1.0) * metres}
