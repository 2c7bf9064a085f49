"""Notebooks: their parameters, the headless runner, live display and the pad in JupyterLab."""
