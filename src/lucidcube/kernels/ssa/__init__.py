"""Singular spectrum analysis of planes: decomposition, artefact score, filling."""
