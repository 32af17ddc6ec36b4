"""What an operator can do within a step: drafts, edits, lineage. One definition behind every door to it."""
