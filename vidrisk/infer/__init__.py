"""Batched prediction over many inputs: source → decode → batch → encode → window → head → sink."""
