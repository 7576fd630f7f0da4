"""Wan checkpoints. Read `keys` (three names of every tensor), `files`, `geometry`, then `gwm.convert`, which joins
them; `vae` and `text` are what surrounds the transformer."""
