"""A study's numbers: raw scores, statistics over seeds and items, `results.json`."""
