"""The whole service on one machine as processes: database, Prefect server, workers, object storage, data source."""
