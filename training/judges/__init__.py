"""Grades of what the models said, by another model."""
