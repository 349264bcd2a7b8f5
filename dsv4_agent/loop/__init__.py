"""The agent loop: turns, budgets, guards, and the events that everything else subscribes to."""
