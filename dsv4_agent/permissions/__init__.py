"""Whether a tool call may run: modes, rules, shell syntax, the decision."""
