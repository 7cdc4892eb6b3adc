"""What every arm must pass before any of its trials runs: small, quick checks of the arm's own model on real batches.

Tests guard the code of this project; guards are for the class that somebody adds tomorrow. Public small ablations are
mostly wrong in ways that these catch (docs/guards.md).
"""
