"""Flags and variables, checked values with their origin, and the intent they make."""
