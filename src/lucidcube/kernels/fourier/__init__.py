"""Convolution of planes with a PSF."""
