"""What the numbers come to, in sentences that can say "failed"; two studies side by side."""
