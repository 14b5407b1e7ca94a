"""What is said of commands: help, pages, and what click refuses, in our words."""
