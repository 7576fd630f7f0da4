"""The renderer of a character: sound goes in, pictures and sound come out, each at its media time."""
