"""The gate: every hop of an export is compared with the one before it."""
