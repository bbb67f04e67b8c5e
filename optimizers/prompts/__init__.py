"""Prompt optimization with DSPy."""
