"""Turn kernels into lazy maps over blocks of a cube."""
