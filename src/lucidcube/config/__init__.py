"""Read configs and describe them: schema, loading, overrides and help."""
