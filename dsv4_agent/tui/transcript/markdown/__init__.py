"""Markdown of a finished answer, laid out as rows."""
