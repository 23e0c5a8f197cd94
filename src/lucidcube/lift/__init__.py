"""The lift: kernels of planes become lazy maps over blocks of a cube."""
