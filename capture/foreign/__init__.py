"""Captures of others in tables of nf_tables of their own: taken away in the commit that brings ours."""
