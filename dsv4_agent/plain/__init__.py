"""A chat without a screen to draw on: labelled lines, for dumb terminals and screen readers."""
