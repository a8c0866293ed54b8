"""Files as every part sees them: caches, paths, lines of JSON, folders that are walked."""
