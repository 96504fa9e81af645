"""The version, readable without importing ESPnet."""

__version__ = "0.1.0"
