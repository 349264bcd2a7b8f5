"""What an agent costs around its model: the start, the gap between turns, the size of what it sends."""
