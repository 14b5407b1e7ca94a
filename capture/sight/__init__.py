"""What is as planned, known by the kernel's own bytes: no program is asked, and nothing is read word by word."""
