"""Proving with real connections that the rules capture."""
