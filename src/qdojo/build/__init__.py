"""Builds objects from a config. Only this package turns names into objects."""
