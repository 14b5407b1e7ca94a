"""One packet, the host that it is on, the steps that it takes, and what became of it."""
