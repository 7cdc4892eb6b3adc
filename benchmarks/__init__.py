"""What things cost, and what the harness can see: one command each."""

from ablations import home as home  # first of all: it says where every later import looks
