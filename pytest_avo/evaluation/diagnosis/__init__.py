"""What helps to understand a kernel: compile reports, SASS, profiles, the interpreter. Decides nothing."""
