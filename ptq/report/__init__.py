"""Report: what a run says, as a table, a page, JSON and markdown, and what a history says."""
