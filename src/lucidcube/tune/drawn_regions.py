"""Write regions that were drawn on the page to a DS9 region file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import regions
from regions import PixCoord

from lucidcube.errors import UserError
from lucidcube.io.atomic import write_atomically

Columns = Mapping[str, Sequence[Any]]


def write_regions(path: Path, polygons: Columns, ellipses: Columns, boxes: Columns) -> int:
    """Write regions in image coordinates, and return their number.

    Polygons have the columns ``xs`` and ``ys``, the others ``x``, ``y``, ``width`` and ``height``, in pixels
    from 0. UserError is raised if there are none, or the file cannot be written.
    """
    shapes: list[Any] = [
        regions.PolygonPixelRegion(PixCoord(list(xs), list(ys)))
        for xs, ys in zip(polygons["xs"], polygons["ys"], strict=True)
        if len(xs) > 2
    ]
    for kind, columns in (
        (regions.EllipsePixelRegion, ellipses),
        (regions.RectanglePixelRegion, boxes),
    ):
        for x, y, width, height in zip(*(columns[k] for k in ("x", "y", "width", "height")), strict=True):
            if width and height:
                shapes.append(kind(PixCoord(x, y), abs(width), abs(height)))
    if not shapes:
        raise UserError("no regions are drawn: choose a drawing tool beside the first image")
    text = regions.Regions(shapes).serialize(format="ds9")
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return len(shapes)


def unused_name(config: Path) -> Path:
    """Return the path of a region file beside a config that does not exist yet."""
    path, number = config.with_suffix(".reg"), 1
    while path.exists():
        number += 1
        path = config.with_name(f"{config.stem}-{number}.reg")
    return path
