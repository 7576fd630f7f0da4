"""Portraits of quality, offline. Read `cast` (who), `wardrobe` (hair, clothes), `studio` (light), `develop` (print)."""
