"""One question: its plan, its matching and search, and who conducts it."""
