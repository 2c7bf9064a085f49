"""What a notebook shows in JupyterLab while work goes on in the background."""
