"""This project's agent and server beside other people's servers and agents, real ones."""
