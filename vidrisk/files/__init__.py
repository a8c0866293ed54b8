"""File access shared by all parts: caches, paths, lines of JSON, folder walks."""
