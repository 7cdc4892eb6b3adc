"""What every floor stands on, and for which no model is needed.

typed.py     values that are checked where they are made; one-line errors
files.py     files and folders that are whole or absent
locks.py     locks that say whose they are
reading.py   what a stranger may have written
streams.py   how a command ends
"""
