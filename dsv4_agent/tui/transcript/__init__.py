"""The conversation on the screen: a virtual list of blocks, drawn line by line from the event stream."""
