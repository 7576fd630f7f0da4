"""A new voice for an old film: only the mouths change.

Read `tracks` (faces of a film, followed from picture to picture), `people` (whose faces they are), `voice` (speech
becomes codes of the mouth), `mouths` (a face and a code become a picture) and `passes` (the two passes through a film).
"""
