"""Vectorised Fourier transforms of real planes of float32; see README.md in this folder."""
