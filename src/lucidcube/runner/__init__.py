"""Run a config: check, plan and compute its tracks segment by segment, and write the products."""
