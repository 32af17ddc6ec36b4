"""What runs inside a kernel's own process. It knows nothing of the judge but `wire`, and holds no secret."""
