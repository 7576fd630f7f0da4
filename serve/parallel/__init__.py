"""One stream denoised by several processes. Start at `parallelize`."""
