"""Kernels as items: what is asked about each, the verdict, and how its result travels. No mode, no evolution."""
