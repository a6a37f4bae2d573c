"""What the native engine takes and gives: jobs, measurements, decisions, and its device."""
