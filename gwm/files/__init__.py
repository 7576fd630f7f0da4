"""Files: checked, read whole, written whole."""
