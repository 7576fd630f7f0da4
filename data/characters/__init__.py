"""Characters that can be drawn talking. Read `appearance` (who), `head` (shape), `hair`, `renderer`, `cartoon`."""
