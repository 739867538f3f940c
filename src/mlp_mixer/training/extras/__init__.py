"""What a training run can do besides the plain loop: teachers, several image sizes, a linear probe, and others."""
