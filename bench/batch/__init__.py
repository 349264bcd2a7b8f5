"""Renames in a real package by `dsv4 batch`: how many succeed, how fast, and what sharing a prefix saves."""
