"""Real footage to clips. Read `video_file`, then `survey`, `takes`, `cutting`.

`sources`, `batches` and `ledger` make it parallel and restartable.
"""
