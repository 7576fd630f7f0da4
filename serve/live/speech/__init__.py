"""Who listens, thinks and speaks: recognition, language model, voice, and whose turn it is."""
