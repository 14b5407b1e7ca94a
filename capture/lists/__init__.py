"""Lists that are too long for a command line: in files, or on standard input."""
