"""Scripted refactors: one instruction for many items, each verified by a command."""
