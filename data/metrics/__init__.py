"""Metrics, and the rules by which answers are read from text."""
