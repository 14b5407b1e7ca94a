"""Ip rules and routes: what is asked before a table is looked up, and where a lookup leads."""
