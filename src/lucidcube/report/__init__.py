"""Make the page about a run: what was done, and pictures and numbers that say whether it worked."""
