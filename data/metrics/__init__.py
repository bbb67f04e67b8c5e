"""Metrics, and the rules that read answers from text."""
