"""The cube as it is, with artefacts filled."""


def deconvolve(plane):
    return plane.data
