"""Tables of runs, for people and for Markdown."""
