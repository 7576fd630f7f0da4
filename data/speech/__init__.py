"""Synthetic speech with exact timing. Read: sentences, espeak, dialogue, visemes, prosody."""
