"""Kernels that deconvolve several planes together with the array library and the device of the context."""
