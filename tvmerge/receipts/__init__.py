"""What proves a merge later: its receipt, made, read and held against the files."""
