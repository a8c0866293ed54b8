"""Writers of a model for the toolchains of other vendors."""
