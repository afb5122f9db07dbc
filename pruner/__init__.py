"""What to cut and when."""
