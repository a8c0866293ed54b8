"""Encoders, heads and adapters: torch modules that read the contract's frames and answer its targets."""
