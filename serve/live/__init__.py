"""A live conversation. Read `playout`, `sound`, `performer`, `engine_process`; then `avatar`, `agent`, `session`, `api`."""
