"""An invented but physical Bohai, drawn from a seed, for demonstrations and tests. Nothing in it is observed."""
