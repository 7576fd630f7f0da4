"""Measures of a generated clip. Read `face_track`, `lip_sync`, `listening`, `distance` (to the truth), then `judge`.

All take uint8 RGB frames. What needs an optional package raises `gwm.optional.MissingPackageError` at construction.
"""
