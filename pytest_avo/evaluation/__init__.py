"""Everything that touches a device: isolated kernel processes, their judge, and the pool of workers."""
