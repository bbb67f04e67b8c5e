"""Metrics and answer parsers."""
