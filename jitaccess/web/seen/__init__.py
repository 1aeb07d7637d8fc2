"""Activity, overview and anomalies."""
