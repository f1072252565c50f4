"""CUDA kernels and their loader.

`*.cu`, `*.cuh` are the kernels, `sources` finds and describes them, `launchers` checks arrays and launches.
"""
