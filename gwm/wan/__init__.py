"""Wan checkpoints. Read `tensor_names` (three names of every tensor), `files`, `geometry`, then `gwm.convert`, which
joins them; `vae` and `encoders` are what surrounds the transformer."""
