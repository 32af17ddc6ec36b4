"""A model behind an endpoint: conversations, transcripts, redaction. Knows no kernels and no lineage."""
