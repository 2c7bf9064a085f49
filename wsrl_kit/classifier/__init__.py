"""The reward classifier: its parameters, data, network, training, figures, and its reward in an environment."""
