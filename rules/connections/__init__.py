"""Connections: what is open while rules come, what is captured, and which rule decided."""
