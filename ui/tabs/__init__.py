"""The tabs of the page, one per file. A tab imports no other tab."""
