"""What would become of a packet: the question, and the answer from the rules."""
