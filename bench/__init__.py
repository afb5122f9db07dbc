"""One file per question about speed or quality: ``python -m bench.NAME``."""
