"""A live conversation. Read `playout`, `sound`, `performer`, `tracks`; then `avatar`, `agent`, `session`, `api`."""
