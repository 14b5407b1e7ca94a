"""Netlink: questions and requests to the kernel, in messages of our own."""
