"""One fine-tune: described, run on one worker or several, resumed from its last checkpoint."""
