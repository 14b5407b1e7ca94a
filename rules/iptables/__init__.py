"""The text of iptables in both directions, as its save prints and its restore reads it; and a rule in words."""
