"""The token backend: a server's raw completions, where the agent renders and parses itself."""
