"""Speed of a model on this machine, with its causes. Read `case`, `workload`, `speed`, `compare`; start at
`__main__`."""
