"""What a kernel may offer beside the plain call, checked: log-sum-exp, packed sequences, keys and values in blocks."""
