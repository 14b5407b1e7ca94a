"""What matches ask of a packet and what targets do to it, whatever tool wrote them."""
