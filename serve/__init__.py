"""From weights to a talking clip. Read `export`, `engine`, `generate`."""
