"""lucidcube, multiscale CLEAN that stops by the noise."""

from .. import ours


def deconvolve_scene(scene, prepared, work):
    return ours.deconvolved(scene, prepared, work, method="clean_multiscale")
