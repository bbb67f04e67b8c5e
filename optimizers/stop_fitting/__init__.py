"""Depth and stop rules, fitted on recorded runs."""
