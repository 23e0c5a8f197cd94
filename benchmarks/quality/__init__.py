"""The quality of deconvolution: many methods on the same scenes with known truth.

`scenes` makes the scenes, `methods` holds one module per method, and `metrics` compares results with the
truth. ``python -m benchmarks.quality`` runs everything; `docs/quality.md` has the results.
"""
