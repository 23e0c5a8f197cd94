"""Point spread functions: preparing a star and fitting models to it."""
