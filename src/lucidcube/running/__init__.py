"""How a run gets through: segments, their blocks, what fails, what stops, who else is at work."""
