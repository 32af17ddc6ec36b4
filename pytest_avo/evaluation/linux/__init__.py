"""The operating system's means: namespaces, Landlock, seccomp, /proc, traps. Knows no kernels and no torch."""
