"""Data. Read `characters` (appearance), `performance` (behaviour), `shards` (files), `encode`, `batch`."""
