"""vidrisk's own manifests, as formats to convert to."""
