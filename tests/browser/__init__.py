"""Does a student see it? Notebooks run in JupyterLab, looked at through the Chromium that the system has."""
