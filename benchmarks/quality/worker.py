"""Run one method on scenes; this is a process of its own, in the environment of the method.

``python -m benchmarks.quality.worker METHOD OUT SCENE...`` reads OUT/scenes/SCENE and OUT/prepared/SCENE, and
writes OUT/results/SCENE/METHOD.fits and .json. It needs NumPy, SciPy and Astropy besides the packages of the
method.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from astropy.io import fits

from . import method
from .metrics import relative_error
from .scene import images

TRIED = 2
"""Number of planes on which the settings of a method are compared."""
PARTS = (0.5, 0.25, 0.75)
Cubes = dict[str, Any]


def main() -> None:
    name, out, *scenes = sys.argv[1:]
    module = method.load(name)
    for scene in scenes:
        result = Path(out) / "results" / scene / f"{name}.fits"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
        try:
            report = run(module, Path(out), scene, result)
        except (ImportError, method.NotInstalled) as error:
            report = {"skipped": f"not installed: {error}"}
        except Exception as error:
            traceback.print_exc()
            report = {"skipped": f"failed: {type(error).__name__}: {error}"[:300]}
        result.with_suffix(".json").write_text(json.dumps(report, default=float))


def run(module: ModuleType, out: Path, scene: str, result: Path) -> dict[str, Any]:
    """Run a method on one scene with its best setting, write the result, and return a report."""
    job = Job(module, out, scene, result.stem)
    settings = list(getattr(module, "SETTINGS", ({},)))
    tried = [job.planes[i] for i in spread(len(job.planes), TRIED)]
    errors = [job.error(s, tried) for s in settings] if len(settings) > 1 else []
    best = settings[int(np.argmin(errors))] if errors else settings[0]
    cubes, seconds = job.made(best, job.planes)
    hdus = [fits.ImageHDU(np.asarray(cube, np.float32), name=key) for key, cube in cubes.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(result, overwrite=True)
    shutil.rmtree(job.work, ignore_errors=True)
    tries = [{"setting": s, "error": e} for s, e in zip(settings, errors, strict=False)]
    return {"setting": best, "cpu": seconds, "planes": job.planes, "tries": tries}


class Job:
    """A method and a scene. Results are kept, so that nothing is computed twice."""

    def __init__(self, module: ModuleType, out: Path, scene: str, name: str) -> None:
        self._module, self._kept = module, {}
        self._scene, self._prepared = out / "scenes" / scene, out / "prepared" / scene
        self._truth = images(self._scene / "truth.fits")
        self._inputs = images(self._prepared / "inputs.fits")
        self._count = len(self._inputs["DATA"])
        self.planes = spread(self._count, min(self._count, getattr(module, "PLANES", self._count)))
        self.work = out / "work" / scene / name
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)

    def made(self, setting: dict[str, Any], planes: list[int]) -> tuple[Cubes, float]:
        """Return the cubes of the result for some planes, and the CPU seconds per plane."""
        if hasattr(self._module, "deconvolve_scene"):
            cubes, seconds = self._kept_or("all", setting, self._whole)
            return {key: cube[planes] for key, cube in cubes.items()}, seconds
        parts = [self._kept_or(str(index), setting, lambda s, i=index: self._plane(i, s)) for index in planes]
        images_, seconds_ = zip(*parts, strict=True)
        return {"RESULT": np.stack(images_)}, float(np.median(seconds_))

    def error(self, setting: dict[str, Any], planes: list[int]) -> float:
        """Return the error at a resolution of one pixel, infinity if it is not finite."""
        cube = self.made(setting, planes)[0]["RESULT"]
        where = np.broadcast_to(self._truth["OBJECT"] > 0, cube.shape)
        found = relative_error(cube, self._truth["TRUTH"][planes], where, 1.0)
        return found if np.isfinite(found) else np.inf

    def _kept_or(self, part: str, setting: dict[str, Any], make: Any) -> Any:
        key = part + json.dumps(setting, sort_keys=True)
        if key not in self._kept:
            start = _cpu()
            made = make(setting)
            self._kept[key] = made, (_cpu() - start) / (self._count if part == "all" else 1)
        return self._kept[key]

    def _whole(self, setting: dict[str, Any]) -> Cubes:
        return self._module.deconvolve_scene(self._scene, self._prepared, self.work, **setting)

    def _plane(self, index: int, setting: dict[str, Any]) -> Any:
        arrays = (self._inputs[key][index].copy() for key in ("DATA", "PSF", "SIGMA"))
        return np.asarray(self._module.deconvolve(method.Plane(*arrays), **setting), dtype=np.float32)


def spread(count: int, wanted: int) -> list[int]:
    """Return some of `count` numbers: the middle one, those at a quarter and at three quarters, or all."""
    return list(range(count)) if wanted > len(PARTS) else sorted({int(count * p) for p in PARTS[:wanted]})


def _cpu() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in uses)


if __name__ == "__main__":
    main()
