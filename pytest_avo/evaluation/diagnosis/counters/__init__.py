"""What the counters of an NVIDIA GPU say of a kernel, by way of ncu, and what can be said where they are forbidden."""
