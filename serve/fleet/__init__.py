"""Several machines behind one address, on Ray Serve: `options` first, then `gateway` and `worker`, which know no Ray;
`__main__` joins them. A session is a lease: a streaming call from the gateway to the worker, open as long as it lasts.
"""
