"""Jobs spread over worker processes of this machine, and the live display of their progress."""
