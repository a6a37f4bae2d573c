"""Runs a merge, whatever kills it on the way, and gives its folder a name when it is whole."""
