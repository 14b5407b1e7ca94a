"""What settings mean, in words, and what in them has no effect."""
