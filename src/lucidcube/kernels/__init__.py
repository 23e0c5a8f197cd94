"""Pure functions of NumPy arrays, one plane or one block; they know no dask, xarray, files or logging."""
