"""Print what `lucidcube.io.inspection` finds in a file."""

from collections.abc import Iterator, Mapping
from typing import Any

from lucidcube.errors import printable


def info_text(found: Mapping[str, Any]) -> str:
    """Describe the HDUs of a file, and the cube or image that is read from it, as a text of several lines."""
    rows = [_hdu(hdu) for hdu in found["hdus"]]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)] if rows else []
    lines = [f"{found['file']}: {len(rows)} HDU{'s' * (len(rows) != 1)}"]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append("  ".join([" ", *cells, row[-1]]).rstrip())
    if found["array"] is not None:
        lines += ["", *(f"{name:<12}{fact}" for name, fact in facts(found["array"]))]
    return "\n".join(printable(line) for line in lines)


def _hdu(hdu: Mapping[str, Any]) -> tuple[str, ...]:
    sides = " x ".join(map(str, hdu["shape"]))
    if hdu["kind"] in ("bintable", "table"):
        sides = f"{hdu['shape'][0]} rows, {hdu['shape'][1]} columns"
    version = f",{hdu['version']}" if hdu["version"] != 1 else ""
    role = f"read as {hdu['role']}: " if hdu["role"] else "not read: " if hdu["why"] else ""
    label = f"{hdu['name']}{version}"
    return str(hdu["number"]), label, hdu["kind"], sides, hdu["type"], hdu["unit"], f"{role}{hdu['why']}"


def facts(array: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each line about the cube or image that is read from a file."""
    axes, sample, sides = array["axes"], array["sample"], f"{array['rows']} x {array['columns']} (y x)"
    if array["kind"] == "image":
        yield "image", f"{sides}, without a spectral axis; y and x are the axes {axes['y']} and {axes['x']}"
    else:
        order = f"wavelength, y and x are the axes {axes['spectral']}, {axes['y']} and {axes['x']}"
        yield "cube", f"{array['planes']} planes of {sides}; {order}"
        yield "wavelength", _spectral(array["spectral"])
    yield "pixel", _sky(array["sky"])
    block = f"; at most {array['planes_per_block']} planes per block" if array["planes"] > 1 else ""
    yield "data", f"{array['unit'] or 'no unit'}{block}"
    yield "variance", _variance(array["variance"])
    planes = ", ".join(map(str, sample["channels"]))
    seen = f"plane {planes}" if len(sample["channels"]) == 1 else f"planes {planes}"
    if sample["median"] is None:
        yield "numbers", f"all NaN in {seen}"
    else:
        reach = f"{sample['median']:.6g} median, {sample['smallest']:.6g} to {sample['largest']:.6g}"
        yield "numbers", f"{reach}; {sample['nan_fraction']:.1%} NaN (in {seen} only)"


def _spectral(axis: Mapping[str, Any]) -> str:
    if not axis["unit"]:
        return "unknown: give wave_start, wave_step and wave_unit with the input"
    text = f"{axis['first']:.8g} to {axis['last']:.8g} {axis['unit']}"
    if not axis["unit_is_stated"]:
        text += " (the unit is not in the header)"
    if axis["step"] is not None:
        text += f", step {axis['step']:.6g}" + ("" if axis["uniform"] else " (median; not uniform)")
    kind = f"; {axis['kind']}" if axis["kind"] else ""
    return f"{text}{kind}" + (f" ({axis['ctype']})" if axis["ctype"] else "")


def _sky(sky: Mapping[str, Any] | None) -> str:
    if sky is None:
        return "the header holds no sky coordinates"
    y, x, angle = sky["pixel_y_arcsec"], sky["pixel_x_arcsec"], sky["north_degrees"]
    side = f"{x:.5g} arcsec" if abs(y - x) < 1e-4 * x else f"{y:.5g} x {x:.5g} arcsec (y x)"
    turned = "up" if abs(angle) < 0.05 else f"{abs(angle):.1f} deg {'left' if angle > 0 else 'right'} of up"
    hand = (
        "counterclockwise from north" if sky["east_is_left_of_north"] else "clockwise from north (mirrored)"
    )
    return f"{side}; north is {turned}, east is {hand}"


def _variance(variance: Mapping[str, Any] | None) -> str:
    if variance is None:
        return "none in the file: the stage noise estimates it"
    note = f", {variance['conversion']}" if variance["conversion"] else ""
    return f"from {variance['hdu']}, which holds {variance['kind']}{note} ({variance['why']})"
