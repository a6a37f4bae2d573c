"""Fine-tunes and measurements side by side on Ray, and who is told how they get on."""
