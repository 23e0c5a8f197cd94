"""Fill in what a config leaves open: the stages of its tracks, and parameters that belong together.

The defaults of the stages are the recommended settings. What is here are the chains of stages, and settings
that suit only some configs: those of the preset `reference`, and those that can do without a star.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from lucidcube.stages.base import REGISTRY

Preset = Literal["recommended", "reference"]

TRACKS = ("target", "star")

CHAINS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "recommended": {
        "target": ({"rebin": {"preset": "auto"}}, "noise", "broaden_psf", "artefacts", "mask", "interpolate"),
        "star": ({"rebin": {"preset": "auto"}}, "noise", "fit_psf"),
    },
    "reference": {
        "target": ("rebin", "artefacts", "mask", "interpolate"),
        "star": ("rebin", "normalise_psf", "fit_psf"),
    },
}
"""The stages of each track."""

MASK_FOR_SSA = {"cut": ((0, 3.0),), "max_dilation": None, "grow": None}
REFERENCE: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "artefacts": ({"method": "ssa"},),
    "mask": (MASK_FOR_SSA,),
    "interpolate": ({"method": "linear"},),
    "fit_psf": ({"model": "radial"},),
    "deconvolve": (
        {"method": "clean_modified", "noise_std": 0.1, "chi2_target": None},
        {
            "method": "lucy_richardson",
            "weighted": False,
            "accelerate": False,
            "strength": 0.1,
            "nudge_factor": 1e-2,
            "chi2_target": None,
        },
    ),
}
"""Parameters of the reference program, by stage; the first set is used if the config chooses none."""

WITH_MODES = {"model": "effective", "method": "least_squares", "modes": 4}
"""Parameters of fit_psf where errors are wanted, which then contain that of the PSF."""

WITHOUT_STAR = {name: REFERENCE[name] for name in ("artefacts", "interpolate")}
"""Methods that need no PSF."""


def with_inputs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw config in which ``star: star.fits`` is written as ``star: {input: star.fits}``."""
    texts = {name: {"input": values[name]} for name in TRACKS if isinstance(values.get(name), str)}
    return {**values, **texts}


def with_chains(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw config whose tracks have stages.

    A track without the key `stages` gets those of the preset if the config names a preset, or if neither
    track names a stage. Otherwise it has none: a star without stages, beside a target with stages, is a PSF.
    An empty list is kept: a star with one is a PSF, beside a target with the stages of the preset.
    """
    filled = dict(values)
    tracks = {name: track for name in TRACKS if isinstance(track := filled.get(name), Mapping)}
    if "psf" in tracks.get("star", ()):
        del tracks["star"]  # a formula has no stages
    bare = "stages" not in tracks.get("target", {}) and not tracks.get("star", {}).get("stages")
    if not bare and filled.get("preset") is None:
        return filled
    chains = CHAINS.get(str(filled.get("preset") or "recommended"), {})
    for name, track in tracks.items():
        if name in chains and "stages" not in track:
            stages = [stage for stage in chains[name] if stage != "broaden_psf" or filled.get("star")]
            filled[name] = {**track, "stages": stages}
    if filled.get("star") is not None and "deconvolve" not in filled:
        filled["deconvolve"] = {}
    return filled


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw config whose stages have the parameters that suit it; those that are given are kept."""
    filled = with_chains(values)
    suitable: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    if filled.get("preset") == "reference":
        suitable = REFERENCE
    elif filled.get("star") is None:
        suitable = WITHOUT_STAR
    for name in TRACKS:
        track = filled.get(name)
        if isinstance(track, Mapping) and isinstance(track.get("stages"), (list, tuple)):
            sets = {**WITHOUT_STAR, **suitable} if name == "star" else suitable
            if _wants_errors(filled.get("deconvolve")):
                sets = {**sets, "fit_psf": (*sets.get("fit_psf", ()), WITH_MODES)}
            filled[name] = {**track, "stages": [*_items(track["stages"], sets)]}
    if isinstance(filled.get("deconvolve"), Mapping):
        filled["deconvolve"] = _completed("deconvolve", filled["deconvolve"], suitable)
    return filled


def _wants_errors(deconvolve: Any) -> bool:
    """Return whether the parameters of the deconvolution ask for errors."""
    errors = deconvolve.get("errors") if isinstance(deconvolve, Mapping) else None
    return errors is not None and errors is not False


def _items(items: Sequence[Any], suitable: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Any]:
    """Yield the items of `stages`; those that are not the name of a stage, or malformed, as they are."""
    for item in items:
        given = {item: None} if isinstance(item, str) else item
        if not isinstance(given, Mapping) or len(given) != 1:
            yield item
            continue
        ((name, parameters),) = given.items()
        if not isinstance(parameters, (Mapping, type(None))) or name not in REGISTRY:
            yield item
            continue
        completed = _completed(name, parameters or {}, suitable)
        if name == "artefacts":
            suitable = {**suitable, "mask": (MASK_FOR_SSA,) if completed.get("method") == "ssa" else ()}
        yield {name: completed}


def _completed(
    name: str, given: Mapping[str, Any], suitable: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return the parameters of a stage with the first suitable set that does not contradict a choice."""
    choices = REGISTRY[name].choices
    for parameters in suitable.get(name, ()):
        if all(given.get(key, parameters.get(key)) == parameters.get(key) for key in choices):
            return {**parameters, **given}
    return dict(given)
