"""Looking at what is there: verify, diff, status, watch, the second witness. Changes nothing."""
