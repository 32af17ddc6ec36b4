"""What a user can set: options and ini keys as tables of values, and what was chosen of them."""
