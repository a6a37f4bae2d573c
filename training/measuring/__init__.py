"""Measures one model: its traits, its abilities, what it re-learns; and audits fine-tunes."""
