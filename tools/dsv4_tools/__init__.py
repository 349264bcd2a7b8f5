"""What the agent can do: one class a tool, typed arguments, a bounded result."""
