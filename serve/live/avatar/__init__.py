"""Who shows: sound in, pictures and sound out, each at its media time."""
