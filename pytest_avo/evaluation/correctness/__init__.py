"""What is right: cases, inputs, float64 references, allowed errors. No processes and no clocks."""
