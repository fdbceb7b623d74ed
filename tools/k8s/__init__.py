"""What makes and holds together the Kubernetes part: `make k8s`, `make k8s-check`."""
