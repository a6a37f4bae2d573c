"""tvmerge: task vectors at the speed of the disk."""

__version__ = "0.1.0"
