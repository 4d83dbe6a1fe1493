"""A study's plan, its runs, and the records that they leave on disk."""
