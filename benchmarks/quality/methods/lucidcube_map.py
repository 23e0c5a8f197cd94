"""lucidcube, its default: edge-preserving MAP with points."""

from .. import ours


def deconvolve_scene(scene, prepared, work):
    return ours.deconvolved(scene, prepared, work)
