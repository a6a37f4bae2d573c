"""The version, on its own so that the command line can print it without importing more."""

__version__ = "0.2.0"
