"""Pictures of a result; `every.py` says which, each of the others draws some."""
