"""The regression gate: what kernels are compared with, and when a difference fails."""
