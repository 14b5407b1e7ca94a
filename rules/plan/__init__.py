"""What is meant: intentions, our names, the flows of traffic, and from them the plan."""
