"""What somebody needs who is to find out what went wrong here: gathered, listed, and put into one archive."""
