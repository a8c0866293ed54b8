"""FiftyOne: samples.json with its fields, and labels.json."""
