"""A result in Weights & Biases: its run, the project's workspace and report, and what a server is asked."""
