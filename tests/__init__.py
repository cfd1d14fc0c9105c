"""Tests, at the same paths as the source; shared helpers are in `testing.py`."""
