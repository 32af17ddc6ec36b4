"""Operators outside this process: coding agents in folders with the command `avo`, and files in an inbox."""
