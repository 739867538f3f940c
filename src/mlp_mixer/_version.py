__version__ = "1.0.0rc1"

DISTRIBUTION = "mlp-mixer-toolkit"
"""The name on the package index; `mlp_mixer` is imported, `mlp-mixer` is the command."""
