"""The terminal coding agent: dialect, loop, sessions, permissions and front ends."""
