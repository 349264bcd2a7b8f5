"""A conversation as front ends see it: intents in, events out."""
