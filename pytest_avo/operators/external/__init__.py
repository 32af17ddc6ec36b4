"""Operators that stand outside: coding agents in folders with the command `avo`, and files in an inbox."""
