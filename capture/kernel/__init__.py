"""Processes, netlink, namespaces, locks: all that asks or tells the kernel."""
