"""What outlives a restart: tables, database, pages; then keys, files and retention, which are functions on them."""
