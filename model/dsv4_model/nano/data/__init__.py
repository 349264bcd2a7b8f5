"""Training data of V4-Nano: generated repositories, tasks with an oracle, and the recorder that drives the real loop."""
