"""The flows: each reads like the table of contents of what it does."""
