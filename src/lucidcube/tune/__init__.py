"""The local page on which parameters are chosen; it needs the extra `gui`."""
