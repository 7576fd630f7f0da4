"""Real footage to clips. Read `video`, `sound`, `scenes`; then `survey`, `takes`, `cutting`.

`sources`, `batches` and `ledger` make it parallel and restartable.
"""
