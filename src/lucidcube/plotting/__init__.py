"""Pictures of a deconvolution while it runs."""
