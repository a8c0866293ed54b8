"""The command line: every command parses options, calls the library, and prints; heavy imports are deferred."""
