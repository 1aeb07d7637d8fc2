"""Access as files: read and validate YAML documents, compare them with what is there, apply, and give them back."""
