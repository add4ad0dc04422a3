"""Where, when and from which files: steps, fingerprints, Ray, Parquet, MLflow, command line, reports."""
