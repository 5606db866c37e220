"""A benchmark as it is written down: fields, YAML, rows, plugins, schema."""
