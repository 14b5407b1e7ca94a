"""What the kernel does with our rules: real packets, as several users, on both backends."""
