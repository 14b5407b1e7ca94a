"""capture as a plugin of a container runtime's network."""
