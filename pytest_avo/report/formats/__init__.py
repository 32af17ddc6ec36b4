"""Results as files for other programs: JSON, Markdown, annotations. Renders only; measures nothing."""
