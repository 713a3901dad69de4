"""MLflow: a run for each training. Nothing else imports it."""
