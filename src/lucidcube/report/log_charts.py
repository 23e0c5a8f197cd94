"""Show the log of the deconvolution against wavelength."""

from typing import Any

import numpy as np

from lucidcube.report.charts import Chart, Line, chart
from lucidcube.report.product_file import ProductFile

LISTED = 12
"""Largest number of ranges of planes in a list."""


def log_charts(product: ProductFile) -> list[Chart]:
    """Return charts of the numbers per plane in the log of a product; none if it has no log, or one plane."""
    log = product.table("DECONVOLUTION LOG")
    if not log or product.planes < 2:
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


def stop_reasons(product: ProductFile) -> list[tuple[str, int, str]]:
    """Return the reasons why the iterations stopped: the text, the number of planes, and which they are."""
    texts = product.table("DECONVOLUTION LOG").get("stop_reason_text", [])
    planes: dict[str, list[int]] = {}
    for number, text in enumerate(texts, 1):
        planes.setdefault(text, []).append(number)
    return [(text, len(numbers), _ranges(numbers)) for text, numbers in planes.items()]


def _ranges(numbers: list[int]) -> str:
    """Return increasing numbers as text, such as ``1 to 5, 7``; at most `LISTED` ranges."""
    starts = [n for i, n in enumerate(numbers) if i == 0 or numbers[i - 1] != n - 1]
    ends = [n for i, n in enumerate(numbers) if i + 1 == len(numbers) or numbers[i + 1] != n + 1]
    texts = [str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(texts[:LISTED]) + (f" and {len(texts) - LISTED} more" if len(texts) > LISTED else "")
