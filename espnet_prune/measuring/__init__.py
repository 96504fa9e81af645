"""Measure what a system costs and how often it errs: stages 16 and 17."""
