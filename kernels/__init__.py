"""Kernels, one operation per file: reference, Triton kernel, launcher."""
