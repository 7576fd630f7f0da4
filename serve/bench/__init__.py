"""How fast a model is on this machine, and why. Read `case`, `workload`, `speed`, `compare`; start at `__main__`."""
