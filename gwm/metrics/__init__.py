"""Measures of a generated clip. Read `lip_sync`, `identity`, `distance` (to the truth), `motion`.

All take uint8 RGB frames. What needs an optional package raises `gwm.optional.MissingPackageError` at construction.
"""
