"""Wan checkpoints. Read `keys` (three names of every tensor), `files`, `geometry`, then `gwm.convert`, which joins
them; `vae`, `text` and `image` are what surrounds the transformer."""
