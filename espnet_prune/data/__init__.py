"""Corpora and data directories: what stages 1 to 5 of the recipe work on."""
