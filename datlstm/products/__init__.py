"""What the service publishes: the forecast and skill cubes, and all that is made of them for people and catalogues."""
