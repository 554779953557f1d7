"""Where trials run: on this machine, or on a Ray cluster told by a cluster-launcher YAML."""
