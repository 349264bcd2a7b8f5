"""Training data of V4-Nano: generated repositories, tasks with an oracle, a recorder over the real loop."""
