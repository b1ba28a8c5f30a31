"""Runs that other trackers have kept on this machine, into MLflow: `run_copy`, and a module for each tracker."""
