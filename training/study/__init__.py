"""Runs a study from its YAML file to its results, in rounds; says beforehand what it takes."""
