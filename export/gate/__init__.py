"""The gate, which compares every hop of an export with the previous one."""
