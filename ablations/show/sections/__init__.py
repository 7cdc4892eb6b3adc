"""Tables of finished text; `every.py` says in which order, each of the others makes some."""
