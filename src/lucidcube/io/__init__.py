"""Read cubes from FITS files and write products to FITS files."""
