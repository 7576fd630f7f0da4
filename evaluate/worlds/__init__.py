"""A model of a world against the world itself: read `players.py`, `inverse.py`, `episodes.py`, then `suite.py`."""
