"""Source code as syntax trees: what a file defines, where a name is used, whether it still parses."""
