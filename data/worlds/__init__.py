"""Worlds that answer to actions, recorded as shards: read `world.py`, then `maze.py`, `policies.py`, `episodes.py`."""
