"""Simulate an ice giant and a standard star with known truth, from a seed and physical models.

`Scene` makes planes, and `write_scene` writes them to FITS files one at a time. The point spread function is
in `optics`, the truth in `planet`, and the artefacts of the instrument in `artefacts`.
"""

from lucidcube.simulate.artefacts import ArtefactKind
from lucidcube.simulate.files import is_simulated, parse_size, scene_for_size, write_scene
from lucidcube.simulate.optics import AdaptiveOptics
from lucidcube.simulate.scene import Moon, Scene, ScenePlane, StarPlane

__all__ = [
    "AdaptiveOptics",
    "ArtefactKind",
    "Moon",
    "Scene",
    "ScenePlane",
    "StarPlane",
    "is_simulated",
    "parse_size",
    "scene_for_size",
    "write_scene",
]
