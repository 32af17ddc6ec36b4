"""Results as lines of a terminal: tables, the status line, the ledgers. Renders only; measures nothing."""
