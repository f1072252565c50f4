"""CUDA kernels and their loader."""
