"""Our rules as nf_tables has them without iptables: one table of our own for each family."""
