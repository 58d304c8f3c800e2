"""The steps of the flows: thin Prefect shells around one library call each."""
