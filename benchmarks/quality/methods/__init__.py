"""One module per method; see `benchmarks.quality.method` for what it contains."""
