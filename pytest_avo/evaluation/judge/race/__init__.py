"""A race of arms over shapes: warm-up, rounds in a drawn order, when to stop, what is asked beside them."""
