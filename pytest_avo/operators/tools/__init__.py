"""What an operator can do within a step: drafts, edits, lineage. One definition for chat, command and MCP."""
