"""Draw a picture of each scene: truth, observation and the results of several methods on the same scale."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .scene import Scene, images

OURS = ("lucidcube_lucy_richardson", "lucidcube_map")
PEERS = 4
"""Number of other methods in a picture: those with the least error at a resolution of one pixel."""


def shown(found: dict[str, Any], plane: int) -> list[str]:
    """Return the methods to show that were given a plane: the best others, then ours."""
    known = {m: r["figures"]["G1"] for m, r in found.items() if plane in r.get("planes", ())}
    others = [m for m in known if not m.startswith("lucidcube") and m != "not_deconvolved"]
    return [*sorted(others, key=known.__getitem__)[:PEERS], *(m for m in OURS if m in known)]


def draw(scene: Scene, found: dict[str, Any], results: Path, path: Path) -> None:
    """Write a picture of the plane that most methods were given."""
    counts = Counter(plane for report in found.values() for plane in report.get("planes", ()))
    plane = max(counts, key=lambda p: (counts[p], p == len(scene.truth) // 2), default=len(scene.truth) // 2)
    methods = shown(found, plane)
    panels = {"truth": scene.truth[plane], "observed": scene.data[plane]}
    for name in methods:
        cube = images(results / f"{name}.fits")["RESULT"]
        panels[name] = cube[found[name]["planes"].index(plane)]
    top = np.percentile(scene.truth[plane][scene.object], 99)
    columns = (len(panels) + 1) // 2 if len(panels) > 4 else len(panels)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.85 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, image) in zip(axes, panels.items(), strict=False):
        axis.set_facecolor("0.35")
        # The root brings out faint light and noise in the sky.
        shade = np.sign(image) * np.sqrt(np.abs(image) / top)
        axis.imshow(shade, origin="lower", cmap="inferno", vmin=-0.1, vmax=1.1, interpolation="nearest")
        error = f", {found[name]['figures']['G1']:.3f}" if name in found else ""
        axis.set_title(name.replace("_", " ") + error, fontsize=8)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
