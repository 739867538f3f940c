"""From a configuration and a data source to a trained checkpoint, resumable at any step."""
