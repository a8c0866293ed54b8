"""Label Studio: JSON and JSON-MIN, with its own way of counting time."""
