"""One packet, from its sender to where it lands."""
