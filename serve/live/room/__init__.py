"""A room that LiveKit's clients join, with one character in it: their signalling, and no forwarding between clients.

Read `tokens` (who may join), `descriptions` (what a client that joins is sent), `packets` (what data channels carry),
`links` (the WebRTC connections of one client), `cameras` (pictures of what it shows), `participant` (its websocket),
`visitor` and `backend` (what a client is to a conversation), `door` (the routes).
"""
