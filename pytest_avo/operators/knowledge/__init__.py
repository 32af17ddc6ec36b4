"""What an operator can look up: passages in *.md beside this file, lessons, versions. Asks no model."""
