"""The compiled code of fastnn: Numba functions for the CPU, CUDA sources for the GPU. Imports nothing of fastnn."""
