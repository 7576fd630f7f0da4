"""REST in the shapes of Runway's public API, over the store and the live server.

Read `requests` and `answers` (what is sent), `routes` (the table), `guard` (keys, origins, errors), then one file a
resource. Handlers are functions on the database; `background` makes what takes long, `rooms` opens sessions.
"""
