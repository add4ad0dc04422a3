"""MLflow reads its settings when it is first imported, so the pipeline's must come before any test imports it."""

import pipeline.tracking  # noqa: F401
