"""Tables, fronts, cards and pages of what runs made; `running` logs them to MLflow."""
