"""Autoencoders behind one protocol.

Read `protocol` (what each of them does), then a family: `haar` (packs of four frames as wavelets), `gwm.wan.vae`
(Wan's), `motion` (how a portrait moves). `families` says which family a config or a weights folder names.
"""
