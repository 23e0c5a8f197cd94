"""Sharpen astronomical integral-field cubes, lazily, in bounded memory."""

__version__ = "0.1.0"
