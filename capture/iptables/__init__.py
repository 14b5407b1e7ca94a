"""iptables as a program: what it prints, what it cannot print, and why it was refused."""
