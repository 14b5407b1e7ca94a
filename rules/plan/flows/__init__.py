"""The meaning of the traffic, one module per direction: each yields the rules of its chains, in the order asked."""
