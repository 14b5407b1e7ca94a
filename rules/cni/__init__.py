"""The Container Network Interface, as values: what a runtime asks of a plugin, and what it is answered."""
