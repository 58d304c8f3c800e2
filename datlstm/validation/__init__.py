"""Validation: what is wrong with the stores and with the champion's skill as of a day. It warns and never blocks."""
