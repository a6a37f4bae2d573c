"""A merge before it runs, every byte in its place; and its batches with what became of each."""
