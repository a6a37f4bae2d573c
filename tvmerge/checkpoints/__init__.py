"""Folders that hold a model: which file holds which tensor, and whether two fit together."""
