"""Figures of a deconvolution while it runs."""
