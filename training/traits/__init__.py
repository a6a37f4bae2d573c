"""Traits and their items: read, checked, linted."""
