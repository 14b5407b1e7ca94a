"""All packets at once, as boxes, and what of them can meet a rule."""
