"""One training: its stages, guards, measures, identity, and what workers are asked for."""
