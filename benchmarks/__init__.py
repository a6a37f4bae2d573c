"""Benchmarks: the engine against the floor and its peers."""
