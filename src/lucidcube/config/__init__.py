"""The config of a run: its schema, how it is read, and what help says about it."""
