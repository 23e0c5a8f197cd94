"""Show the log of the deconvolution against wavelength."""

from typing import Any

import numpy as np

from lucidcube.report.charts import Chart, Line, chart
from lucidcube.report.product_file import ProductFile


def log_charts(product: ProductFile) -> list[Chart]:
    """Return charts of the numbers per plane in the log of a product; none if it has no log."""
    log = product.table("DECONVOLUTION LOG")
    if not log:
        return []
    axis = product.wavelength
    known = bool(np.isfinite(axis).all())
    x = axis if known else np.arange(len(axis)) + 1.0
    x_label = f"wavelength ({product.unit})" if known else "plane"
    flux_in = np.asarray(log.get("flux_in", np.nan), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(log.get("flux_out", np.nan), np.float64) / flux_in
    wanted: list[tuple[str, str, list[tuple[str, Any]], list[tuple[float, str]]]] = [
        ("Iterations", "iterations", [("iterations", log.get("iterations"))], []),
        ("Chi squared", "mean of (residual / σ)²",
         [("all pixels", log.get("chi2")), ("bright pixels", log.get("chi2_bright"))], [(1.0, "noise")]),
        ("Structure of the residual", "relative to noise",
         [("structure", log.get("residual_structure"))], [(1.0, "noise"), (2.0, "warning")]),
        ("Flux", "flux after / flux before", [("flux", ratio)], [(1.0, "balance")]),
        ("Residual", "flux per pixel", [("largest", log.get("fabs")), ("rms", log.get("rms"))], []),
    ]  # fmt: skip
    charts = []
    for title, y_label, columns, levels in wanted:
        lines = [
            Line(name, x, values)
            for name, values in columns
            if values is not None and np.size(values) == len(x)
        ]
        names = " and ".join(line.label for line in lines)
        made = chart(
            title,
            lines,
            x_label=x_label,
            y_label=y_label,
            alt=f"{title} against wavelength: {names}",
            log=title == "Residual",
            levels=levels,
            by_wavelength=len(x) > 1,
        )
        charts += [made] if made is not None else []
    return charts
