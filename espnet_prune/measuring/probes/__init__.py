"""Probes on frozen features of encoders, as SUPERB has them (arXiv 2105.01051)."""
