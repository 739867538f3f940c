__version__ = "0.1.0"

DISTRIBUTION = "mlp-mixer-toolkit"
"""The name on the package index; `mlp_mixer` is imported, `mlp-mixer` is the command."""
