"""How fast a model is on this machine, and why. Read `case`, `subject`, `measure`, `compare`; start at `__main__`."""
