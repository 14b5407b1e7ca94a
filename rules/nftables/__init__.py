"""What the kernel tells of nf_tables, read into the language."""
