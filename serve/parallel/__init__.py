"""One stream denoised by several processes. Read `ranks`, `parallelize`, `follow`."""
