"""`make rolling-restart`: every process of a mesh is replaced, and nobody who asks it notices."""
