"""Collect the numbers of a run as plain data, so that runs can be compared without their pages."""

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from lucidcube import __version__
from lucidcube.config.origins import settings
from lucidcube.cube import DECONVOLUTION_LOG
from lucidcube.report.planes import Planes
from lucidcube.report.product_file import ProductFile
from lucidcube.runner.monitor import Summary

FORMAT = "lucidcube report 1"
COUNTED = ("blocks", "computed", "seconds", "cpu_seconds", "nbytes")
PACKAGES = ("numpy", "scipy", "numba", "dask", "xarray", "zarr", "astropy", "matplotlib")


def collect(
    product: ProductFile, planes: Planes, run: Mapping[str, Any] | None, origins: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return all numbers of a report; those of the computer and the time are in ``run``."""
    log = product.table("DECONVOLUTION LOG")
    columns = {n: log[n] for n in ("stop_reason_text", *DECONVOLUTION_LOG) if n in log}
    wavelength = {"unit": product.unit, "values": product.wavelength}
    return plain(
        {
            "format": FORMAT,
            "product": {
                "file": product.path.name,
                "bytes": product.path.stat().st_size,
                "datasum": product.identity,
                "version": product.provenance.get("version", "unknown"),
                "hdus": product.names,
            },
            "warnings": product.warnings,
            "summary": summarise(product, planes),
            "wavelength": wavelength,
            "log": columns,
            "measured": planes.measured,
            "spectra": planes.spectra,
            "inputs": product.inputs,
            "config": settings(product.config),
            "origins": origins,
            "versions": versions(),
            "run": run,
        }
    )


def summarise(product: ProductFile, planes: Planes) -> dict[str, Any]:
    """Return the numbers that say whether a run worked: medians over the planes."""
    log, measured = product.table("DECONVOLUTION LOG"), planes.measured
    flux_in, flux_out = (np.asarray(log.get(n, []), np.float64) for n in ("flux_in", "flux_out"))
    known = (
        np.isfinite(flux_in) & np.isfinite(flux_out) & (flux_in != 0) if flux_in.size else np.zeros(0, bool)
    )
    before, after = (median(measured[f"sharpness_{n}"]) for n in ("before", "after"))
    return {
        "planes": product.planes,
        "deconvolved": int(np.count_nonzero(known)),
        "chi2": median(log.get("chi2", [])),
        "chi2_bright": median(log.get("chi2_bright", [])),
        "residual_structure": median(log.get("residual_structure", [])),
        "residual_structure_largest": largest(log.get("residual_structure", [])),
        "flux_ratio": median(flux_out[known] / flux_in[known]),
        "iterations": median(log.get("iterations", [])),
        "stop_reasons": dict(Counter(log.get("stop_reason_text", []))),
        "sharpness_before": before,
        "sharpness_after": after,
        "sharpness_gain": after / before if before > 0 else math.nan,
        "psf_fwhm": median(measured["psf_fwhm"]),
        "psf_peak": median(measured["psf_peak"]),
        "marked": mean(measured["marked"]),
    }


def run_record(summary: Summary, started: str) -> dict[str, Any]:
    """Return what a run took, as plain data: the only part of the numbers that differs between equal runs."""
    values = asdict(summary)
    kept = {k: values[k] for k in ("seconds", "computed", "reused", "nbytes", "product_bytes", "memory")}
    machine = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    return {
        "started": started,
        **kept,
        "worker_memory": summary.worker_memory,
        "parts": _parts(summary),
        "computer": machine,
    }


def _parts(summary: Summary) -> list[dict[str, Any]]:
    """Return the parts of a run; the HDUs of the product are one part, although several cubes make them."""
    parts: dict[str, dict[str, Any]] = {}
    for part in summary.parts:
        values = asdict(part)
        known = parts.setdefault(part.label, {**values, **dict.fromkeys(COUNTED, 0)})
        for key in COUNTED:
            known[key] += values[key]
    if "product" in parts:
        parts["product"]["nbytes"] = summary.product_bytes
    return [*parts.values()]


def versions() -> dict[str, str]:
    """Return the versions of lucidcube and of the packages on which numbers depend."""
    found = {"lucidcube": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def median(values: Sequence[Any]) -> float:
    """Return the median of the finite values; NaN if there are none."""
    known = _finite(values)
    return float(np.median(known)) if known.size else math.nan


def mean(values: Sequence[Any]) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    known = _finite(values)
    return float(np.mean(known)) if known.size else math.nan


def largest(values: Sequence[Any]) -> float:
    """Return the largest of the finite values; NaN if there are none."""
    known = _finite(values)
    return float(np.max(known)) if known.size else math.nan


def _finite(values: Sequence[Any]) -> Any:
    numbers = np.asarray(values, np.float64)
    return numbers[np.isfinite(numbers)]


def plain(value: Any) -> Any:
    """Return a value as JSON can represent it: arrays become lists, and numbers that are not finite null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
