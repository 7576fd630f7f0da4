"""Data. Read `characters` (who), `performance` (what they do), `shards` (files), `encode`, `batch`."""
