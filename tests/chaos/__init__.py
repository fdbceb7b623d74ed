"""`make chaos`: what callers see while one part of the mesh after the other fails."""
