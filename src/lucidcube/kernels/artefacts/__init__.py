"""Tests for artefacts that use the PSF of the instrument and the spectrum of the object."""
