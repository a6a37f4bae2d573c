"""How long a merge takes here: the disk's floor, a probe, an estimate, other tools."""
