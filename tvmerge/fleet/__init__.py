"""One merge on several machines of a Ray cluster."""
