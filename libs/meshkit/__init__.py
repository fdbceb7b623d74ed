"""What every process of the mesh shares."""
