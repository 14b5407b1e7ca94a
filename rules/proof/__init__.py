"""Whether every connection fares as planned, and what rules of others do to it."""
