"""The language of netfilter: families, tables, chains, matches, targets, rulesets, and their texts."""
