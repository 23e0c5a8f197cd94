"""A seeded, physically explained simulation with known truth: an ice giant and a standard star.

`Scene` makes planes, `write_scene` streams them to FITS files. `optics` has the point spread function,
`planet` the truth, `artefacts` what the instrument spoils.
"""

from lucidcube.simulate.artefacts import ArtefactKind
from lucidcube.simulate.files import parse_size, scene_for_size, write_scene
from lucidcube.simulate.optics import AdaptiveOptics
from lucidcube.simulate.scene import Moon, Scene, ScenePlane, StarPlane

__all__ = [
    "AdaptiveOptics",
    "ArtefactKind",
    "Moon",
    "Scene",
    "ScenePlane",
    "StarPlane",
    "parse_size",
    "scene_for_size",
    "write_scene",
]
