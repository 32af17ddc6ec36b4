"""Where models meet the kernels: `transformers`, and torch's own choice of attention."""
