"""Rooms that LiveKit's clients join: read `endpoint`, `participant`, `media`, `packets`, `room`, `tokens`."""
