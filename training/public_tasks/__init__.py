"""Public tasks of EleutherAI's language model evaluation harness."""
