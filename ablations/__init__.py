"""The harness: from a sweep's name to a result table."""

from ablations import home as home  # first of all: it says where every later import looks
