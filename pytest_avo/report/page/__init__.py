"""Pages to look at: one self-contained HTML file each, made of plain values."""
