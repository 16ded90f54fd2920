"""How does a running machine move? In rounds of what was written, then a short stop, then on the other side."""
