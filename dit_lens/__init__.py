"""dit_lens."""

__version__ = "0.1.0"
