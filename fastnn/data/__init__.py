"""Data sets and tables."""
