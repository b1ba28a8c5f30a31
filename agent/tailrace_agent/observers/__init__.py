"""Who looks on at what passes by: alerts, the webhook, Prometheus, the last values."""
