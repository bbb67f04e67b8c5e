"""Comparison and acceptance tests."""
