"""A machine with a card, measured."""
