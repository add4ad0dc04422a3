"""Tables in Parquet: rows of activations, features, predictions and results."""
