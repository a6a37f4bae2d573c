"""Inputs that become files first: adapters, packed vectors, embeddings of another vocabulary."""
