"""Schemas and data that the README and the tests run."""
