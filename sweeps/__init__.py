"""What schedules trials: entry scripts, the driver over Ray Tune, the search over Optuna, MLflow tracking."""
