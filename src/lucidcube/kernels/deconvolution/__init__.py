"""Deconvolution of one plane."""
