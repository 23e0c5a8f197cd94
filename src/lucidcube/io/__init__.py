"""Files at both ends: FITS cubes in, FITS products out."""
