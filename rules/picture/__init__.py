"""The chains as a picture: what is in it (`model`), how it reads (`words`), where everything goes (`layout`).

A ruleset goes in, planned or live, and text comes out: SVG, which needs no other program (`svg`), or what other
programs draw (`mermaid`, `dot`).
"""
