"""What files of results are made of: documents, Markdown, annotations, tables. Renders only; measures nothing."""
