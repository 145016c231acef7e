"""Registers model, data and metrics of the task, and says who predicts."""

custom_imports = {"imports": ["mixerzoo.tasks.engine", "mixerzoo.tasks.classification"]}
predictor = "mixerzoo.tasks.classification.predict"
