"""Write the scores as tables: JSON for programs, Markdown for people, between markers of a page."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from . import method
from .score import FIGURES, PREPARATION

BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"
BEST_IS_LEAST = ("G0.5", "G1", "G2", "velocity_scatter", "moon_offset", "false3", "false5")
BEST_IS_ZERO = ("limb", "minnaert", "line_ratio", "velocity_bias", "rotation")
DIGITS = {"G0.5": 3, "G1": 3, "G2": 3, "velocity_bias": 1, "velocity_scatter": 1, "cpu": 3, "chi2": 2}

Scores = dict[str, dict[str, Any]]
"""For each scene, the report of each method."""


def machine() -> dict[str, str]:
    """Return what the scores depend on: versions, processor and date."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), ""
    )
    packages = ("lucidcube", "numpy", "scipy", "numba")
    versions = {name: metadata.version(name) for name in packages}
    return versions | {
        "python": platform.python_version(),
        "processor": model or platform.processor(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def save(scenes: dict[str, dict[str, Any]], path: Path) -> None:
    """Write what is known about each scene, with versions, to a JSON file; NaN becomes null."""
    text = json.dumps({"machine": machine(), "scenes": scenes}, default=float)
    plain = json.loads(text, parse_constant=lambda _: None)
    path.write_text(json.dumps(plain, indent=1) + "\n")


def markdown(known: dict[str, Any]) -> str:
    """Return the tables of the scores in a JSON file that was written by `save`, as Markdown."""
    scenes, about = known["scenes"], known["machine"]
    scores: Scores = {name: found["methods"] for name, found in scenes.items()}
    methods = [m for m in method.names() if any(m in found for found in scores.values())]
    parts = [
        ", ".join(f"{name} {value}" for name, value in about.items()) + ".",
        _list("Scenes", {name: found["title"] for name, found in scenes.items()}),
        _list("Methods", {name: method.title(name) + _remark(scores, name) for name in methods}),
    ]
    parts += ["### Preparation\n\nThe stages of lucidcube before the deconvolution.", _preparation(scenes)]
    for figure, meaning in FIGURES.items():
        table = _table(scores, methods, figure)
        if table:
            parts += [f"### {figure}\n\n{meaning[0].upper()}{meaning[1:]}.", table]
    parts += [
        "### Pictures\n\nThe number is G1. The square root of the light is shown.",
        *map(_picture, scenes),
    ]
    return "\n\n".join(parts)


def insert(text: str, page: Path, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between two markers of a page."""
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def _preparation(scenes: dict[str, Any]) -> str:
    """Return a table of the figures before the deconvolution: a row per figure, a column per scene."""
    lines = [
        "| | " + " | ".join(s.replace("_", " ") for s in scenes) + " |",
        "|---" * (len(scenes) + 1) + "|",
    ]
    for figure, meaning in PREPARATION.items():
        cells = [_cell(found.get("preparation", {}).get(figure), "cpu", False) for found in scenes.values()]
        lines.append(f"| {meaning} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _table(scores: Scores, methods: list[str], figure: str) -> str:
    """Return a table of one figure: a row per method, a column per scene that has it; the best in bold."""
    values = {
        scene: {m: found[m]["figures"].get(figure) for m in methods if "figures" in found.get(m, {})}
        for scene, found in scores.items()
    }
    scenes = [scene for scene, row in values.items() if any(v is not None for v in row.values())]
    rows = [m for m in methods if any(values[s].get(m) is not None for s in scenes)]
    if not rows:
        return ""
    lines = [
        "| | " + " | ".join(s.replace("_", " ") for s in scenes) + " |",
        "|---" * (len(scenes) + 1) + "|",
    ]
    whole = {s: {m: v for m, v in values[s].items() if _compared(m, scores[s][m])} for s in scenes}
    best = {scene: _best(whole[scene], figure) for scene in scenes}
    for name in rows:
        cells = [_cell(values[s].get(name), figure, name in best[s]) for s in scenes]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _best(row: dict[str, float | None], figure: str) -> list[str]:
    distance = {m: abs(v - (figure == "moon_flux")) for m, v in row.items() if v is not None}
    if not distance or figure not in (*BEST_IS_LEAST, *BEST_IS_ZERO, "moon_flux"):
        return []
    least = min(distance.values())
    return [m for m, d in distance.items() if d <= least]


def _cell(value: float | None, figure: str, best: bool) -> str:
    if value is None:
        return ""
    digits = DIGITS.get(figure, 2)
    text = f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.2g}"
    return f"**{text}**" if best else text


def _picture(scene: str) -> str:
    return (
        f"![{scene.replace('_', ' ')}: truth, observation, other methods, ours](images/quality-{scene}.png)"
    )


def _list(title: str, items: dict[str, str]) -> str:
    return f"### {title}\n\n" + "\n".join(f"- `{name}`: {text}." for name, text in items.items())


def _remark(scores: Scores, name: str) -> str:
    """Return what is to be known about a method: why it is skipped, and on how few planes it is measured."""
    reports = [found[name] for found in scores.values() if name in found]
    reasons = sorted({r["skipped"] for r in reports if "skipped" in r})
    planes = {len(r["planes"]) for r in reports if not _whole(r) and "planes" in r}
    remarks = [
        *(f"skipped: {reason}" for reason in reasons),
        *(f"{n} planes per scene" for n in sorted(planes)),
    ]
    return f" ({'; '.join(remarks)})" if remarks else ""


def _compared(name: str, report: dict[str, Any]) -> bool:
    """Return whether the figures of a method are compared with those of others."""
    return name != "not_deconvolved" and _whole(report)


def _whole(report: dict[str, Any]) -> bool:
    """Return whether a method was given all planes."""
    planes = report.get("planes", [])
    return bool(planes) and len(planes) == planes[-1] + 1


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
