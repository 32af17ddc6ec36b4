"""What every mode of a run shares: settings as a value, who evaluates, what is said. No pytest, no items."""
