"""Edits of films by a video model: parts drawn anew, larger frames, another prompt.

Read `request` (the settings), `regions` (which px of which pictures are drawn anew), `view` (the part of a picture that
the model sees), `editors` (windows of pictures through a model) and `windows` (a film as windows, kept on disk).
"""
