"""Access in other systems, given and taken as grants begin and end: after core access, never instead of it."""
