"""What a visitor shows, while it is shown: pictures of a camera or screen, at most one a second each, never stored.

Read `pictures` (what comes in), `sight` (what one session sees), `reading` (text of a screen, where no model sees),
`expression` (a face in words), `reader` (the process that does both).
"""
