"""Text as what a model learns from: read, divided into splits, tokenized, packed into sequences, and kept."""
