"""Models and task vectors as expressions: added, negated, scaled, saved or filled in memory."""
