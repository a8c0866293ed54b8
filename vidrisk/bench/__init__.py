"""How fast, how large and how good a bundle is on this machine: every runtime and variant of it, side by side."""
