"""Settings of every command. Read `command` (what all command lines share)."""
