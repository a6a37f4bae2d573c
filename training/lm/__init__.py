"""A causal language model asked: prompts, and log-probabilities of many answers at once."""
