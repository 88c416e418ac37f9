"""What `bench/run accuracy` is made of: published measurements, models, statistics, reports."""
