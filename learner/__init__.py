"""Models and how they learn."""
