"""The formats that results can be written in, a module each: its name is the option's, `catalogue.py` finds it.

A module has HELP, the option's text, and `of_results`, which makes the file. Options are made in every pytest, so that
a module imports what makes the file only when it does.
"""
