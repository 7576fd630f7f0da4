"""Conditions of the model. Read `inputs` (what the model receives), then `audio` (how speech becomes features)."""
