"""Pure values: no torch, no pytest, no process but git, of which `disk` knows."""
