"""The agent of a conversation: recognition, language model, voice, and turn taking."""
