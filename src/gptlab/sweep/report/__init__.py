"""report.html: the pictures of a sweep and its trials, in one page."""
