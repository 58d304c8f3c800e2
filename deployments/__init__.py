"""How the service runs for real, and what watches over it."""
