"""One value, one reader at a time, and the command line as its callers meet it."""
