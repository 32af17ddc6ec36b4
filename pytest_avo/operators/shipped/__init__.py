"""Operators by name, a module each: `coding_agent.py` is `coding-agent`. `catalogue.py` finds them.

A module has OPERATOR, its entry. A small operator stands there whole; of a large one it imports the class only when it
makes one.
"""
