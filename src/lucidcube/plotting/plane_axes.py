"""Draw a plane of a cube, or its white light, on matplotlib axes."""

from typing import Any

import xarray as xr

from lucidcube.cube import (
    DATA,
    DIMS,
    PLANE,
    PSF_PLANE,
    SCALE_EXPONENT,
    VARIANCE,
    is_psf,
    require,
    scale_exponent,
)
from lucidcube.errors import UserError
from lucidcube.io.cube_wcs import check_pixels, sky_wcs
from lucidcube.plotting.channels import plain
from lucidcube.plotting.panels import STYLES, Column, rows_of
from lucidcube.plotting.sheet import Scale, looks, set_asinh_ticks

SKY = {"pos.eq.ra": "right ascension", "pos.eq.dec": "declination"}
"""Names of sky coordinates by their physical type; others keep their type."""


def draw_plane(
    cube: xr.Dataset, wave: Any, channel: int | None, variable: str, scale: Scale, ax: Any = None
) -> Any:
    """Draw a variable of a cube and return the axes; see `lucidcube.api.accessor.LucidAccessor.plot`."""
    require(cube, [variable], "plot")
    if wave is not None and channel is not None:
        raise UserError("plot: give wave or channel, and not both")
    names = dict(zip(PSF_PLANE, PLANE, strict=True)) if PSF_PLANE[0] in cube[variable].dims else {}
    if len(cube[variable].dims) != len(DIMS):
        raise UserError(f"plot: {variable} is no image: its dimensions are {cube[variable].dims}")
    column = _column(cube, variable, names)
    waves = [wave if isinstance(wave, str) else f"{float(wave)!r}"] if wave is not None else []
    white = wave is None and channel is None
    (row, *_) = rows_of(column.cube, white, [] if channel is None else [channel], waves)
    panel = column.panel(row, None)
    if ax is None:
        import matplotlib.pyplot as plt

        wcs = None if column.style == "psf" else sky_wcs(cube)
        if wcs is not None:
            check_pixels(cube)
        ax = plt.figure(layout="constrained").add_subplot(projection=wcs)
    image = ax.imshow(panel.values, origin="lower", interpolation="nearest", **looks(panel, scale))
    ax.set_title(plain(row.title), loc="left", fontsize="medium")
    _label(ax)
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(f"{variable} ({plain(panel.unit)})" if panel.unit else variable)
    if panel.style == "flags":
        bar.set_ticks([0, 1, 2, 3] if not panel.unit else [0, 1])
    elif scale == "asinh" and panel.style in ("flux", "psf"):
        set_asinh_ticks(image)
    return ax


def _label(ax: Any) -> None:
    """Label the axes, which have sky coordinates or are pixels."""
    if not hasattr(ax, "coords"):
        ax.set(xlabel="x (pixel)", ylabel="y (pixel)")
        return
    for number, kind in enumerate(ax.wcs.world_axis_physical_types):
        if kind in SKY:
            ax.coords[number].set_axislabel(SKY[kind])


def _column(cube: xr.Dataset, variable: str, names: dict[str, str]) -> Column:
    """Return a variable in the form that a sheet of panels has."""
    style = "psf" if variable == DATA and is_psf(cube) else STYLES.get(variable.upper(), "flux")
    known = style == "sigma" and VARIANCE in cube
    variance = _as_data(cube, VARIANCE, {}) if known else None
    return Column(variable, _as_data(cube, variable, names), style, variance)


def _as_data(cube: xr.Dataset, variable: str, names: dict[str, str]) -> xr.Dataset:
    """Return a cube whose data are a variable, with the exponent of its scale."""
    exponent = {SCALE_EXPONENT: scale_exponent(cube, variable)}
    return xr.Dataset({DATA: cube[variable].rename(names).variable}, cube.coords, {**cube.attrs, **exponent})
