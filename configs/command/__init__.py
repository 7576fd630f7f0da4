"""What every command line of gwm shares. Read `main` (the decorator), `overrides` (quoting), `refusal` (errors)."""
