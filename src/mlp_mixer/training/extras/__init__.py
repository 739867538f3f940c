"""What a run can do besides the plain loop: a teacher, several image sizes, and others."""
