"""The run: check, plan and compute tracks, segment by segment, and write the products."""
