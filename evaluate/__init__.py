"""The evaluation of an artifact. Read `cases` (what is played), `examine` (one clip), `summary`, `sections`."""
