"""Models on the kernels."""
