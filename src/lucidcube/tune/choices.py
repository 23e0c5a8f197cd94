"""The parameters that are chosen on the page: what a config has, and how a choice changes it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidcube.config.load import load
from lucidcube.config.schema import Config
from lucidcube.config.track import DECONVOLVE
from lucidcube.errors import ConfigError
from lucidcube.stages.base import REGISTRY, Stage, by_word

MASK = "mask"
OFFERED: Mapping[str, Sequence[str]] = {
    "map": ("n_iter", "mu", "point_penalty"),
    "clean_modified": ("n_iter", "loop_gain", "threshold"),
    "clean_multiscale": ("n_iter", "gain", "threshold"),
    "lucy_richardson": ("n_iter", "strength"),
}
"""The parameters of each method of the deconvolution that the page offers."""


@dataclass(frozen=True)
class Choices:
    """Values that replace those of a config: parameters of the mask, and of the deconvolution.

    `method` is the method of the deconvolution; the parameters in `deconvolve` belong to it.
    """

    mask: Mapping[str, Any]
    method: str
    deconvolve: Mapping[str, Any]

    @classmethod
    def of(cls, config: Config) -> "Choices":
        """Return what a config has; ConfigError is raised if it cannot be tuned."""
        mask, last = stage_of(config, MASK), config.deconvolve
        if mask is None or last is None:
            raise ConfigError("the config has no mask, or nothing is deconvolved: there is nothing to tune")
        method = str(last.model_dump()["method"])
        return cls(_values(mask, ("cut", "grow", "const_regions")), method, _values(last, OFFERED[method]))

    def overrides(self, config: Config) -> list[str]:
        """Return the values that differ from those of a config, as arguments of ``--set``."""
        before = Choices.of(config)
        changed = {f"target.{MASK}.{k}": v for k, v in self.mask.items() if v != before.mask[k]}
        if self.method != before.method:
            # The parameters of one method are unknown to another, so that the whole section is replaced.
            common = {k: v for k, v in _common(config, self.method).items() if k not in self.deconvolve}
            changed[DECONVOLVE] = {"method": self.method, **common, **self.deconvolve}
        else:
            changed |= {
                f"{DECONVOLVE}.{k}": v for k, v in self.deconvolve.items() if v != before.deconvolve[k]
            }
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changed.items()]


def tuned(
    files: Sequence[Path], sets: Sequence[str], choices: Choices, *, trust_profile: bool = False
) -> Config:
    """Return the config of files, as they are now, and overrides with other choices.

    ConfigError is raised if it is not valid.
    """
    given = load(files, sets, trust_profile=trust_profile)
    return load(files, [*sets, *choices.overrides(given)], trust_profile=trust_profile)


def stage_of(config: Config, name: str) -> Stage | None:
    """Return the first stage of the target with this name."""
    return next((stage for stage in config.stages("target") if stage.name == name), None)


def usual(method: str) -> dict[str, Any]:
    """Return the default of each parameter that is offered for a method."""
    (variant,) = by_word(REGISTRY[DECONVOLVE].variants(), "method")[method]
    return {name: variant.model_fields[name].default for name in OFFERED[method]}


def _values(stage: Stage, names: Sequence[str]) -> dict[str, Any]:
    """Return parameters as plain data; a cut that is the same for all channels is a number."""
    flat = stage.flat()
    values = {name: flat[name] for name in names}
    if len(cut := values.get("cut", ())) == 1:
        values["cut"] = cut[0][1]
    return values


def _common(config: Config, method: str) -> dict[str, Any]:
    """Return the parameters of the deconvolution, other than defaults, that all methods share."""
    last = config.deconvolve
    if last is None:
        return {}
    shared = REGISTRY[DECONVOLVE].model_fields.keys() - {"method", "n_iter", "chi2_target"}
    flat, (variant,) = last.flat(), by_word(REGISTRY[DECONVOLVE].variants(), "method")[method]
    changed = last.model_dump(exclude_defaults=True)
    return {name: flat[name] for name in sorted(shared & changed.keys()) if name in variant.model_fields}
