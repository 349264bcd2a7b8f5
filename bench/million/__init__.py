"""A real million: a model of V4-Nano's shape filled to 1,048,576 tokens and asked for a needle."""
